//! A hash map in parts, each behind its own short-held lock.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 32;

/// How much of a map is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// One part, by turns.
    Turn(u64),
    /// Everything.
    All,
}

/// Locks, also after a panic elsewhere: no operation here leaves a map half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The map. Keys are hashed with a random seed, since peers choose some of them.
#[derive(Debug)]
pub(crate) struct Sharded<K, V> {
    shards: [Mutex<HashMap<K, V>>; SHARDS],
    hasher: RandomState,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq, V> Sharded<K, V> {
    /// The part that holds this key, locked.
    pub(crate) fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>> {
        let hash = self.hasher.hash_one(key);
        // The remainder is below the number of shards.
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let [first, ..] = &self.shards;
        lock(self.shards.get(index).unwrap_or(first))
    }

    /// Drops what `keep` does not want.
    pub(crate) fn retain(&self, part: Part, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let only = match part {
            Part::Turn(turn) => usize::try_from(turn % SHARDS as u64).ok(),
            Part::All => None,
        };
        for (i, shard) in self.shards.iter().enumerate() {
            if only.is_none_or(|only| only == i) {
                lock(shard).retain(&mut keep);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}
