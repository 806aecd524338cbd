//! How often a foreign bundle is fetched.

use std::time::Duration;

use countersign_identity::Bundle;

use crate::limits;

/// A smaller hint counts as this one.
const LEAST_HINT: Duration = Duration::from_secs(60);
/// Without a hint, a tenth of an authority's lifetime stands in for it.
const HINTS_PER_LIFETIME: u32 = 10;
/// Four fetches per hint, so that a few may fail.
const FETCHES_PER_HINT: u32 = 4;

/// The time between two fetches, given the stored bundle. At most [`limits::MAX_BUNDLE_POLL`], whatever the hint: a trust
/// domain that revokes a stolen authority must not have to wait for years until we notice.
pub(super) fn interval(bundle: Option<&Bundle>) -> Duration {
    let Some(bundle) = bundle else {
        return LEAST_HINT;
    };
    let shortest = bundle
        .x509_authorities
        .iter()
        .map(|authority| authority.not_after().since(authority.not_before()))
        .min();
    let hint = bundle
        .refresh_hint
        .or_else(|| Some(shortest? / HINTS_PER_LIFETIME))
        .unwrap_or(LEAST_HINT);
    (hint.max(LEAST_HINT) / FETCHES_PER_HINT).min(limits::MAX_BUNDLE_POLL)
}

#[cfg(test)]
mod tests {
    use countersign_identity::bundle::X509Authority;
    use countersign_identity::issue::{Subject, self_signed_authority};
    use countersign_identity::{KeyType, PrivateKey, TrustDomain, UnixTime};

    use super::*;

    fn bundle(hint: Option<u64>, lives: &[u64]) -> Bundle {
        let td = TrustDomain::new("td").unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let root = |life: &u64| {
            let life = Duration::from_secs(*life);
            let der = self_signed_authority(&td, &Subject::authority(), &key, life, now).unwrap();
            X509Authority::new(der).unwrap()
        };
        Bundle {
            x509_authorities: lives.iter().map(root).collect(),
            refresh_hint: hint.map(Duration::from_secs),
            ..Bundle::empty(td.clone())
        }
    }

    #[test]
    fn a_bundle_is_fetched_four_times_per_hint() {
        for (hint, seconds) in [(1, 15), (60, 15), (300, 75), (3_600, 900)] {
            let found = interval(Some(&bundle(Some(hint), &[60])));
            assert_eq!(found, Duration::from_secs(seconds), "{hint}");
        }
    }

    #[test]
    fn the_shortest_authority_decides_without_a_hint() {
        let found = interval(Some(&bundle(None, &[86_400, 40_000])));
        // Authorities are back-dated a little, which is part of their life.
        assert!(found >= Duration::from_secs(1_000) && found < Duration::from_secs(1_010));
        assert_eq!(interval(Some(&bundle(None, &[]))), Duration::from_secs(15));
    }

    #[test]
    fn no_interval_is_longer_than_a_day() {
        assert_eq!(interval(None), Duration::from_secs(60));
        let years = interval(Some(&bundle(Some(1 << 40), &[])));
        assert_eq!(years, limits::MAX_BUNDLE_POLL);
    }
}
