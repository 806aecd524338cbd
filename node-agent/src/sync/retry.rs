//! When something that failed may be tried again.

use std::time::Duration;

use countersign_transport::backoff::Backoff;
use tokio::time::Instant;

/// When something that failed may be tried again.
pub(super) struct Retry {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Retry {
    /// Waits that begin with `initial` and grow by half each time, up to `max`.
    pub(super) const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            backoff: Backoff::new(initial, max).factor(1.5),
            not_before: None,
        }
    }

    /// Whether the wait is over.
    pub(super) fn is_open(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// It failed: closed for the wait that is returned.
    pub(super) fn failed(&mut self) -> Duration {
        let wait = self.backoff.next_wait();
        self.not_before = Some(Instant::now() + wait);
        wait
    }

    /// It succeeded: open, and the waits begin anew.
    pub(super) fn succeeded(&mut self) {
        self.backoff.reset();
        self.not_before = None;
    }

    /// Open again only after this span, though it succeeded.
    pub(super) fn pause(&mut self, span: Duration) {
        self.not_before = Some(Instant::now() + span);
    }

    /// The first moment from `at` on at which it is open.
    pub(super) fn open_from(&self, at: Instant) -> Instant {
        self.not_before.map_or(at, |open| open.max(at))
    }
}
