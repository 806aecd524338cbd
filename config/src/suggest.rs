//! Which known key a misspelt one is probably meant to be.

/// Longer words get no suggestion: the work grows with the square of the length.
const MAX_LENGTH: usize = 64;

/// The known word that is nearest, if it is near: at most a third of its length away.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    if word.chars().count() > MAX_LENGTH {
        return None;
    }
    known
        .map(|candidate| {
            // Counts a swap of neighbours as one edit, since that is the commonest slip.
            let distance = strsim::osa_distance(&word, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| distance.saturating_mul(3) <= candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_a_near_key_is_suggested() {
        let known = ["bind_port", "bind_address", "ca_ttl", "disk"];
        for (word, suggested) in [
            ("BindPort", Some("bind_port")),
            ("bind_prot", Some("bind_port")),
            ("ca_tll", Some("ca_ttl")),
            ("dsik", Some("disk")),
            ("colour", None),
            ("", None),
            (&*"bind_port".repeat(1000), None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), suggested, "{word}");
        }
    }
}
