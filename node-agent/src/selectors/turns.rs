//! Attestations take threads, and reading a large executable takes one for long: no user of this machine can have all of
//! them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Who may be attested now; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<u32, Arc<Semaphore>>>>);

/// Held while an attestation runs.
#[derive(Debug)]
pub(super) struct Turn(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

impl Turns {
    /// Waits for one of the user's turns.
    pub(super) async fn wait(&self, uid: u32) -> Turn {
        let turns = self.of(uid);
        // Never closed.
        Turn(turns.acquire_owned().await.ok())
    }

    fn of(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who are not being attested, nor wait for it, need no place.
        users.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = users
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(limits::ATTESTATIONS_PER_USER)));
        Arc::clone(turns)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_user_waits_for_its_own_turns_and_nobody_elses() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..limits::ATTESTATIONS_PER_USER {
            held.push(turns.wait(1).await);
        }
        assert!(turns.wait(1).now_or_never().is_none());
        assert!(turns.wait(2).now_or_never().is_some());
        held.pop();
        assert!(turns.wait(1).now_or_never().is_some());
        held.clear();
        drop(turns.wait(3).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "the others are forgotten");
    }
}
