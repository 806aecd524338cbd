//! One bucket per key, for a bounded number of keys.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use crate::gcra::{Bucket, Rate};
use crate::lock;

/// Buckets by key. A key without a bucket has an unused one.
///
/// When there are too many, unused buckets are forgotten, which changes nothing, and if that is not enough, the half that
/// is nearest to being unused. So a flood of fresh keys refills the buckets of those that used little, never of those at
/// their limit.
#[derive(Debug)]
pub struct KeyedBuckets<K> {
    capacity: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> KeyedBuckets<K> {
    /// Remembers at most `capacity` keys.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            buckets: Mutex::default(),
        }
    }

    /// Takes one unit of this key's bucket.
    ///
    /// # Errors
    /// How long until one would be let through.
    pub fn take(&self, key: K, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.reserve(key, rate, 1, now, Duration::ZERO).map(|_| ())
    }

    /// Takes several units of this key's bucket; see [`Bucket::reserve`].
    ///
    /// # Errors
    /// The wait, if it is longer than `patience`. Nothing is taken then.
    pub fn reserve(
        &self,
        key: K,
        rate: Rate,
        units: u32,
        now: Duration,
        patience: Duration,
    ) -> Result<Duration, Duration> {
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.get(&key) {
            return bucket.reserve(rate, units, now, patience);
        }
        let bucket = Bucket::default();
        let wait = bucket.reserve(rate, units, now, patience)?;
        make_room(&mut buckets, self.capacity, now);
        buckets.insert(key, bucket);
        Ok(wait)
    }

    /// Gives units back.
    pub fn undo(&self, key: &K, rate: Rate, units: u32) {
        if let Some(bucket) = lock(&self.buckets).get(key) {
            bucket.undo(rate, units);
        }
    }
}

fn make_room<K: Eq + Hash>(buckets: &mut HashMap<K, Bucket>, capacity: usize, now: Duration) {
    if buckets.len() < capacity {
        return;
    }
    buckets.retain(|_, bucket| !bucket.is_unused(now));
    if buckets.len() < capacity {
        return;
    }
    let mut times: Vec<u64> = buckets.values().map(Bucket::unused_at).collect();
    let middle = times.len() / 2;
    if middle < times.len() {
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        buckets.retain(|_, bucket| bucket.unused_at() > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_second(1, 1);

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let buckets = KeyedBuckets::new(10);
        assert!(buckets.take("a", RATE, Duration::ZERO).is_ok());
        assert!(buckets.take("a", RATE, Duration::ZERO).is_err());
        assert!(buckets.take("b", RATE, Duration::ZERO).is_ok());
        buckets.undo(&"a", RATE, 1);
        assert!(buckets.take("a", RATE, Duration::ZERO).is_ok());
    }

    #[test]
    fn the_number_of_remembered_keys_is_bounded() {
        let buckets = KeyedBuckets::new(100);
        for key in 0..1_000 {
            buckets.take(key, RATE, Duration::ZERO).unwrap();
            assert!(lock(&buckets.buckets).len() <= 100);
        }
    }

    #[test]
    fn fresh_keys_do_not_refill_a_bucket_at_its_limit() {
        let buckets = KeyedBuckets::new(100);
        let (deep, shallow) = (Rate::per_second(1, 60), RATE);
        for _ in 0..60 {
            buckets.take(0, deep, Duration::ZERO).unwrap();
        }
        for key in 1..1_000 {
            buckets.take(key, shallow, Duration::ZERO).unwrap();
        }
        assert!(buckets.take(0, deep, Duration::ZERO).is_err());
    }
}
