//! How many things each key has at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::lock;

/// Counts by key; clones share the counts. It remembers only keys that hold a lease.
#[derive(Debug)]
pub struct KeyedCounter<K> {
    limit: usize,
    counts: Arc<Mutex<HashMap<K, usize>>>,
}

/// One unit of a key's count, returned when it is dropped.
#[derive(Debug)]
#[must_use = "the lease ends when this is dropped"]
pub struct Lease<K: Eq + Hash> {
    counter: KeyedCounter<K>,
    key: K,
    count: usize,
}

impl<K> Clone for KeyedCounter<K> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit,
            counts: Arc::clone(&self.counts),
        }
    }
}

impl<K: Eq + Hash + Clone> KeyedCounter<K> {
    /// At most `limit` leases at once for each key, and at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            counts: Arc::default(),
        }
    }

    /// One more lease for this key; none if it has as many as it may.
    #[must_use]
    pub fn lease(&self, key: K) -> Option<Lease<K>> {
        let mut counts = lock(&self.counts);
        let count = match counts.get_mut(&key) {
            Some(count) if *count >= self.limit => return None,
            Some(count) => {
                *count += 1;
                *count
            }
            None => {
                counts.insert(key.clone(), 1);
                1
            }
        };
        drop(counts);
        Some(Lease {
            counter: self.clone(),
            key,
            count,
        })
    }

    /// How many leases each key may have at once.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Whether no key has a lease.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        lock(&self.counts).is_empty()
    }
}

impl<K: Eq + Hash> Lease<K> {
    /// Whose it is.
    pub const fn key(&self) -> &K {
        &self.key
    }

    /// Whether it was the last one that its key could have when it was given.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.count == self.counter.limit
    }
}

impl<K: Eq + Hash> Drop for Lease<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counter.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_limit_of_its_own() {
        let counter = KeyedCounter::new(2);
        let held = [counter.lease("a").unwrap(), counter.lease("a").unwrap()];
        assert_eq!(held.each_ref().map(Lease::is_last), [false, true]);
        assert!(counter.lease("a").is_none());
        assert!(counter.lease("b").is_some());
        drop(held);
        assert!(counter.lease("a").is_some());
        assert!(counter.is_unused(), "keys without leases are forgotten");
    }

    #[test]
    fn a_limit_of_zero_counts_as_one() {
        let counter = KeyedCounter::new(0);
        let _held = counter.lease(1).unwrap();
        assert!(counter.lease(1).is_none());
    }
}
