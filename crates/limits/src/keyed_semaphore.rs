//! A few at once for each key: for work that is costly, so that one key's callers wait for each other and for no one else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock;

/// A semaphore per key; clones share them. It remembers only keys that hold a permit or wait for one.
#[derive(Clone, Debug)]
pub struct KeyedSemaphore<K> {
    permits: usize,
    semaphores: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
}

/// A permit of one key, returned when it is dropped.
#[derive(Debug)]
#[must_use = "the permit is returned when this is dropped"]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl<K: Eq + Hash> KeyedSemaphore<K> {
    /// This many permits for each key, and at least one.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits: permits.clamp(1, Semaphore::MAX_PERMITS),
            semaphores: Arc::default(),
        }
    }

    /// A permit of this key, if one is free.
    #[must_use]
    pub fn try_acquire(&self, key: K) -> Option<Permit> {
        self.of(key).try_acquire_owned().ok().map(Permit)
    }

    /// Waits for a permit of this key, first come first served.
    pub async fn acquire(&self, key: K) -> Permit {
        match self.of(key).acquire_owned().await {
            Ok(permit) => Permit(permit),
            // Only a closed semaphore fails, and none is ever closed.
            Err(_) => std::future::pending().await,
        }
    }

    fn of(&self, key: K) -> Arc<Semaphore> {
        let mut semaphores = lock(&self.semaphores);
        // A permit and a waiter each hold a reference beside the map's own.
        semaphores.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let semaphore = semaphores
            .entry(key)
            .or_insert_with(|| Arc::new(Semaphore::new(self.permits)));
        Arc::clone(semaphore)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn callers_of_one_key_wait_for_each_other_only() {
        let semaphore = KeyedSemaphore::new(2);
        let first = semaphore.acquire("a").await;
        let mut held = vec![first, semaphore.try_acquire("a").unwrap()];
        assert!(semaphore.try_acquire("a").is_none());
        assert!(semaphore.acquire("a").now_or_never().is_none());
        assert!(semaphore.try_acquire("b").is_some());
        held.pop();
        assert!(semaphore.acquire("a").now_or_never().is_some());
        held.clear();
        drop(semaphore.acquire("c").await);
        let remembered = lock(&semaphore.semaphores).len();
        assert_eq!(remembered, 1, "keys without permits are forgotten");
    }
}
