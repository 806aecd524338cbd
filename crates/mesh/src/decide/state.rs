//! What the decisions of one callee remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_identity::bundle::Bundles;
use countersign_identity::{Now, SpiffeId, UnixTime};

use crate::limits::{Accounts, Capacity, Part, Peers, Quota};
use crate::verify::Caches;

/// Counters, caches and bundles.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) bundles: Arc<dyn Bundles>,
    pub(crate) peers: Peers,
    pub(crate) accounts: Accounts,
    pub(crate) calls: Quota,
    pub(crate) caches: Caches,
    /// The latest time at which something was forgotten because it was too old to matter. What was too old then stays too
    /// old, so that a clock that goes back does not make forgotten calls and accounts count afresh.
    horizon: AtomicU64,
    /// The last second in which a part was tidied, and in which everything was.
    tidied: AtomicU64,
    tidied_all: AtomicU64,
}

impl State {
    pub(crate) fn new(bundles: Arc<dyn Bundles>, capacity: &Capacity) -> Self {
        Self {
            bundles,
            peers: Peers::new(capacity.peers),
            accounts: Accounts::new(capacity.counters),
            calls: Quota::new(capacity.calls),
            caches: Caches::new(capacity),
            horizon: AtomicU64::new(0),
            tidied: AtomicU64::new(0),
            tidied_all: AtomicU64::new(0),
        }
    }

    /// Now, or the latest time at which something was forgotten.
    pub(crate) fn latest(&self, at: Now) -> UnixTime {
        let horizon = UnixTime::from_secs(self.horizon.load(Ordering::Relaxed));
        at.wall.max(horizon)
    }

    /// Forgets what is too old, one part of the maps per second.
    pub(crate) fn tidy(&self, at: Now) {
        let now = at.wall.as_secs();
        if self.tidied.load(Ordering::Relaxed) != now
            && self.tidied.swap(now, Ordering::Relaxed) != now
        {
            self.sweep(Part::Turn(now), now);
        }
    }

    /// Forgets everything that is too old, because a map has no room. At most once a second; whether it was done.
    pub(crate) fn tidy_all(&self, at: Now) -> bool {
        let now = at.wall.as_secs();
        let is_due = self.tidied_all.swap(now, Ordering::Relaxed) != now;
        if is_due {
            self.sweep(Part::All, now);
        }
        is_due
    }

    fn sweep(&self, part: Part, now: u64) {
        self.caches.sweep(part, now);
        let accounts = self.accounts.sweep(part, now);
        let calls = self.peers.sweep_calls(part, now, &self.calls);
        if accounts || calls {
            self.horizon.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Charges a peer's failure bucket. A peer that there is no room for is not charged: its request was refused anyway.
    pub(crate) fn charge_failure(&self, peer: &SpiffeId, at: Now) {
        if let Some(state) = self.peers.enter(peer, at.mono) {
            state.charge_failure(at.mono);
        }
    }
}
