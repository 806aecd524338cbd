//! Tokens that are kept, by whom they are about and for whom they are meant. A pure table: it fetches nothing.

use std::collections::HashMap;
use std::time::Duration;

use countersign_identity::SpiffeId;

use super::JwtSvid;
use crate::rotation::{Due, Moment};

/// Which token: the subject and its audiences, in whatever order they were named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JwtKey {
    id: SpiffeId,
    audience: Vec<String>,
}

impl JwtKey {
    /// Of this subject for these.
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

/// A token that is kept.
#[derive(Clone, Debug)]
pub(crate) struct CachedJwt {
    /// The token.
    pub(crate) svid: JwtSvid,
    /// The key that signed it.
    pub(crate) key_id: String,
    /// From when on a new one is fetched.
    pub(crate) renew: Due,
    /// When it has expired: a clock that is set back does not make it last longer.
    pub(crate) end: Due,
}

impl CachedJwt {
    /// One that came now, to be renewed when half of its life is left, moved by `jitter` of that half.
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
    /// With the number of the look that found it last.
    held: HashMap<JwtKey, (u64, CachedJwt)>,
    looks: u64,
}

impl JwtCache {
    /// Room for `most` tokens.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            held: HashMap::new(),
            looks: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// The one that is kept. Expired ones too: that is for the caller to judge.
    pub(crate) fn get(&mut self, key: &JwtKey) -> Option<CachedJwt> {
        self.looks += 1;
        let (looked, held) = self.held.get_mut(key)?;
        *looked = self.looks;
        Some(held.clone())
    }

    /// Keeps one. If there are too many then, expired ones go, or else, of the subject that has most, that which was not
    /// looked at for the longest: a workload that asks for ever new audiences evicts only its own tokens.
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
