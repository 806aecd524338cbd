//! Turns at something costly, a few at once for each of those who want it, so that none of them keeps the others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose turns are taken now; clones share it. It remembers only those who have one or wait for one.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    at_once: usize,
    taken: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
}

/// Held for as long as the turn lasts.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl<K: Eq + Hash> Turns<K> {
    /// So many turns at once for each, at least one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self {
            at_once: at_once.clamp(1, Semaphore::MAX_PERMITS),
            taken: Arc::default(),
        }
    }

    /// A turn of this one, if there is one now.
    #[must_use]
    pub fn take(&self, whose: K) -> Option<Turn> {
        self.of(whose).try_acquire_owned().ok().map(Turn)
    }

    /// Waits for a turn of this one, after those who came earlier.
    pub async fn wait(&self, whose: K) -> Turn {
        match self.of(whose).acquire_owned().await {
            Ok(permit) => Turn(permit),
            // It fails when the semaphore is closed, which nobody does.
            Err(_) => std::future::pending().await,
        }
    }

    fn of(&self, whose: K) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = taken
            .entry(whose)
            .or_insert_with(|| Arc::new(Semaphore::new(self.at_once)));
        Arc::clone(turns)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_waits_for_its_own_turns_and_nobody_elses() {
        let turns = Turns::new(2);
        let mut held = vec![turns.wait("a").await, turns.take("a").unwrap()];
        assert!(turns.take("a").is_none());
        assert!(turns.wait("a").now_or_never().is_none());
        assert!(turns.take("b").is_some());
        held.pop();
        assert!(turns.wait("a").now_or_never().is_some());
        held.clear();
        drop(turns.wait("c").await);
        assert_eq!(
            turns.taken.lock().unwrap().len(),
            1,
            "the others are forgotten"
        );
    }
}
