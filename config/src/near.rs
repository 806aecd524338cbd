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

/// Levenshtein's distance: insertions, deletions and replacements.
fn distance(word: &[char], other: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (line, letter) in other.chars().enumerate() {
        let mut next = vec![line.saturating_add(1)];
        for ((own, above), diagonal) in word.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            let replaced = diagonal.saturating_add(usize::from(*own != letter));
            next.push(
                replaced
                    .min(left.saturating_add(1))
                    .min(above.saturating_add(1)),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
