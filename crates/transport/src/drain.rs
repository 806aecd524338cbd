//! An end in order, and a bound on how long it may take.
//!
//! Whoever does work holds a [`Guard`]. [`Drain::finish`] asks for the end, waits for the guards, and when the time is
//! up cuts what is left, because a half-open client can keep a graceful end waiting for ever (hyper#4170).

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Tracks running work; clones share the state.
#[derive(Clone, Debug)]
pub struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
    work: TaskTracker,
}

/// Held while work runs that a drain should wait for.
#[must_use = "the drain waits only for as long as the guard is held"]
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held for its drop")] TaskTrackerToken);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All work ended by itself.
    Clean,
    /// The time was up; so many pieces of work were cut.
    Cut(usize),
}

impl Drain {
    /// A drain that begins at the latest when `begin` is cancelled.
    #[must_use]
    pub fn new(begin: &CancellationToken) -> Self {
        Self {
            begun: begin.child_token(),
            cut: CancellationToken::new(),
            work: TaskTracker::new(),
        }
    }

    /// A guard for one piece of work.
    pub fn guard(&self) -> Guard {
        Guard(self.work.token())
    }

    /// Cancelled when work should come to its end.
    #[must_use]
    pub const fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// Cancelled when work has to stop at once.
    #[must_use]
    pub const fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// The work that runs now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.work.len()
    }

    /// Asks for the end, waits up to `limit` for the work, then cuts what is left and waits until it has stopped.
    pub async fn finish(&self, limit: Duration) -> Drained {
        self.begun.cancel();
        self.work.close();
        if tokio::time::timeout(limit, self.work.wait()).await.is_ok() {
            return Drained::Clean;
        }
        let left = self.work.len();
        self.cut.cancel();
        self.work.wait().await;
        Drained::Cut(left)
    }
}
