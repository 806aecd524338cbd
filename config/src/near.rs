//! Which known key a misspelt one is probably meant to be.

/// Longer words are compared with nothing: the work grows with the square of the length.
const MAX_LENGTH: usize = 64;

/// The known word that is nearest, if it is near: at most a third of its length away.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    if word.len() > MAX_LENGTH {
        return None;
    }
    known
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| distance.saturating_mul(3) <= candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(word: &[char], other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let width = other.len().saturating_add(1);
    let mut table: Vec<usize> = (0..width).collect();
    let at = |table: &[usize], line: usize, column: usize| {
        let index = line.saturating_mul(width).saturating_add(column);
        table.get(index).copied().unwrap_or_default()
    };
    for (line, own) in word.iter().enumerate() {
        table.push(line.saturating_add(1));
        for (column, letter) in other.iter().enumerate() {
            let left = at(&table, line.saturating_add(1), column).saturating_add(1);
            let above = at(&table, line, column.saturating_add(1)).saturating_add(1);
            let replaced = at(&table, line, column).saturating_add(usize::from(own != letter));
            let mut best = left.min(above).min(replaced);
            if let (Some(line), Some(column)) = (line.checked_sub(1), column.checked_sub(1))
                && word.get(line) == Some(letter)
                && other.get(column) == Some(own)
            {
                best = best.min(at(&table, line, column).saturating_add(1));
            }
            table.push(best);
        }
    }
    table.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        for (one, other, wanted) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("dsik", "disk", 1),
            ("bind_prot", "bind_port", 1),
        ] {
            let word: Vec<char> = one.chars().collect();
            assert_eq!(distance(&word, other), wanted, "{one} {other}");
        }
    }

    #[test]
    fn only_what_is_near_is_offered() {
        let known = ["bind_port", "bind_address", "ca_ttl"];
        assert_eq!(nearest("BindPort", known.into_iter()), Some("bind_port"));
        assert_eq!(nearest("ca_tll", known.into_iter()), Some("ca_ttl"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest("", known.into_iter()), None);
        assert_eq!(nearest(&"bind_port".repeat(1000), known.into_iter()), None);
    }
}
