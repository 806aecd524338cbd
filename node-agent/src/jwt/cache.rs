//! The cache of tokens, by subject and audiences. A pure table: it fetches nothing.

use std::collections::HashMap;
use std::time::Duration;

use countersign_identity::SpiffeId;

use super::JwtSvid;
use crate::rotation::{Due, Moment};

/// The key of a token: its subject, and its audiences in canonical order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JwtKey {
    id: SpiffeId,
    audience: Vec<String>,
}

impl JwtKey {
    /// The key for this subject and these audiences.
    #[must_use]
    pub(crate) fn new(id: &SpiffeId, audience: &[String]) -> Self {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        audience.dedup();
        Self {
            id: id.clone(),
            audience,
        }
    }
}

/// A cached token.
#[derive(Clone, Debug)]
pub(crate) struct CachedJwt {
    /// The token.
    pub(crate) svid: JwtSvid,
    /// The key that signed it.
    pub(crate) key_id: String,
    /// When it is due for renewal.
    pub(crate) renew: Due,
    /// When it expires, by both clocks: setting the wall clock back does not make it last longer.
    pub(crate) end: Due,
}

impl CachedJwt {
    /// A token received now, due for renewal at half of its lifetime, moved by `jitter` of that half.
    #[must_use]
    pub(crate) fn new(svid: JwtSvid, key_id: String, jitter: f64, now: Moment) -> Self {
        let half = svid.expires_at.since(svid.issued_at) / 2;
        let left = half.as_secs_f64() * (1.0 + jitter);
        let left = Duration::try_from_secs_f64(left).unwrap_or(half);
        let renew_at = svid.expires_at.before(Duration::from_secs(left.as_secs()));
        Self {
            renew: Due::at(renew_at, now),
            end: Due::at(svid.expires_at, now),
            svid,
            key_id,
        }
    }
}

/// A bounded number of tokens.
#[derive(Debug)]
pub(crate) struct JwtCache {
    most: usize,
    /// Each with the number of its last access, for eviction.
    held: HashMap<JwtKey, (u64, CachedJwt)>,
    looks: u64,
}

impl JwtCache {
    /// With a capacity of `most` tokens.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            held: HashMap::new(),
            looks: 0,
        }
    }

    /// The number of tokens.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// The cached token, even if it has expired: the caller checks that.
    pub(crate) fn get(&mut self, key: &JwtKey) -> Option<CachedJwt> {
        self.looks += 1;
        let (looked, held) = self.held.get_mut(key)?;
        *looked = self.looks;
        Some(held.clone())
    }

    /// Adds a token. Beyond the capacity it evicts expired tokens, or else the least recently used token of the subject
    /// with the most tokens: a workload that keeps requesting new audiences evicts only its own.
    pub(crate) fn put(&mut self, key: JwtKey, held: CachedJwt, now: Moment) {
        self.looks += 1;
        self.held.insert(key, (self.looks, held));
        if self.held.len() > self.most {
            self.held.retain(|_, (_, held)| !held.end.has_come(now));
        }
        while self.held.len() > self.most {
            let Some(key) = self.superfluous() else {
                return;
            };
            self.held.remove(&key);
        }
    }

    fn superfluous(&self) -> Option<JwtKey> {
        let mut counts: HashMap<&SpiffeId, usize> = HashMap::new();
        for key in self.held.keys() {
            *counts.entry(&key.id).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
        self.held
            .iter()
            .filter(|(key, _)| key.id == *most)
            .min_by_key(|(_, (looked, _))| *looked)
            .map(|(key, _)| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use countersign_identity::UnixTime;
    use tokio::time::Instant;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap()
    }

    fn key(path: &str, audience: &[&str]) -> JwtKey {
        let audience: Vec<String> = audience.iter().map(|a| (*a).to_owned()).collect();
        JwtKey::new(&id(path), &audience)
    }

    fn moment(wall: UnixTime) -> Moment {
        Moment {
            wall,
            steady: Instant::now(),
        }
    }

    fn held(path: &str, life: u64, jitter: f64) -> CachedJwt {
        let svid = JwtSvid {
            token: "t".into(),
            id: id(path),
            issued_at: NOW,
            expires_at: NOW.after(Duration::from_secs(life)),
        };
        CachedJwt::new(svid, "kid".into(), jitter, moment(NOW))
    }

    #[test]
    fn audiences_are_a_set() {
        assert_eq!(key("a", &["x", "y"]), key("a", &["y", "x", "y"]));
        assert_ne!(key("a", &["x"]), key("a", &["x", "y"]));
        assert_ne!(key("a", &["x"]), key("b", &["x"]));
    }

    #[test]
    fn a_token_is_renewed_around_half_of_its_life() {
        let after = |jitter| held("a", 300, jitter).renew.wall().since(NOW).as_secs();
        assert_eq!((after(0.0), after(0.1), after(-0.1)), (150, 135, 165));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_token_last_longer() {
        let began = moment(NOW);
        let held = held("a", 300, 0.0);
        let later = |secs| Moment {
            wall: NOW.before(Duration::from_secs(3600)),
            steady: began.steady + Duration::from_secs(secs),
        };
        assert!(!held.renew.has_come(later(100)));
        assert!(held.renew.has_come(later(160)) && !held.end.has_come(later(160)));
        assert!(held.end.has_come(later(310)));
        // One that is set forward ends it at once: peers may go by the same clock.
        let ahead = Moment {
            wall: NOW.after(Duration::from_secs(300)),
            ..began
        };
        assert!(held.end.has_come(ahead));
    }

    #[test]
    fn who_asks_for_ever_new_audiences_drives_out_its_own() {
        let mut cache = JwtCache::new(10);
        cache.put(key("good", &["x"]), held("good", 300, 0.0), moment(NOW));
        for number in 0..50 {
            cache.put(
                key("bad", &[&number.to_string()]),
                held("bad", 300, 0.0),
                moment(NOW),
            );
            assert!(cache.len() <= 10);
        }
        assert!(cache.get(&key("good", &["x"])).is_some());
        assert!(cache.get(&key("bad", &["49"])).is_some());
        assert!(cache.get(&key("bad", &["0"])).is_none());
    }

    #[test]
    fn expired_tokens_are_evicted_first_then_the_least_recent() {
        let mut cache = JwtCache::new(2);
        cache.put(key("a", &["1"]), held("a", 300, 0.0), moment(NOW));
        cache.put(key("a", &["2"]), held("a", 300, 0.0), moment(NOW));
        assert!(cache.get(&key("a", &["1"])).is_some());
        cache.put(key("a", &["3"]), held("a", 300, 0.0), moment(NOW));
        assert!(cache.get(&key("a", &["2"])).is_none());
        assert!(cache.get(&key("a", &["1"])).is_some());
        let later = NOW.after(Duration::from_secs(300));
        cache.put(key("b", &["1"]), held("b", 900, 0.0), moment(later));
        assert_eq!(cache.len(), 1);
        let mut none = JwtCache::new(0);
        none.put(key("a", &["1"]), held("a", 300, 0.0), moment(NOW));
        assert_eq!(none.len(), 0);
    }
}
