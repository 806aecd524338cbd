//! Graceful shutdown with a deadline.
//!
//! Each piece of work holds a [`Guard`]. [`Drain::finish`] asks the work to end, waits for the guards, and at the
//! deadline aborts what is left: a half-open client can keep a graceful shutdown waiting for ever (hyper#4170).

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

/// Held by a piece of work that a drain should wait for.
#[must_use = "the drain waits only for as long as the guard is held"]
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held for its drop")] TaskTrackerToken);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All work finished in time.
    Clean,
    /// The deadline passed, and this many pieces of work were aborted.
    Cut(usize),
}

impl Drain {
    /// A drain that begins when `begin` is cancelled, or earlier by [`Drain::finish`].
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

    /// Cancelled when work should finish.
    #[must_use]
    pub const fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// Cancelled when work must stop at once.
    #[must_use]
    pub const fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// The number of guards that are held.
    #[must_use]
    pub fn running(&self) -> usize {
        self.work.len()
    }

    /// Begins the drain, waits up to `limit` for the work, then aborts what is left and waits until it has stopped.
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
