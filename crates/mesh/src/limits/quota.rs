//! Who may put how much into a bounded map.
//!
//! Every entry belongs to the direct peer that caused it. A peer that holds as many entries as are still free gets no
//! new ones, so that no peer, however fast, takes the space of the others.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How much of one map is in use.
#[derive(Debug)]
pub(crate) struct Quota {
    capacity: usize,
    used: AtomicUsize,
}

/// How much of it one peer holds.
#[derive(Debug, Default)]
pub(crate) struct Held(AtomicUsize);

impl Held {
    pub(crate) fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Quota {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            used: AtomicUsize::new(0),
        }
    }

    /// How many entries there may be in all.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes one entry for a peer; `false` if its share is used up.
    pub(crate) fn claim(&self, held: &Held) -> bool {
        // Counted before the look at what is free, so that concurrent requests of one peer see each other.
        let already = held.0.fetch_add(1, Ordering::Relaxed);
        let take = |used: usize| (already < self.capacity.saturating_sub(used)).then_some(used + 1);
        let claimed = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok();
        if !claimed {
            held.0.fetch_sub(1, Ordering::Relaxed);
        }
        claimed
    }

    /// Gives entries back.
    pub(crate) fn release(&self, held: &Held, entries: usize) {
        held.0.fetch_sub(entries, Ordering::Relaxed);
        self.used.fetch_sub(entries, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_gets_half_and_the_next_half_of_the_rest() {
        let quota = Quota::new(100);
        let fill = |held: &Held| {
            std::iter::repeat_with(|| quota.claim(held))
                .take_while(|ok| *ok)
                .count()
        };
        let (a, b, c) = (Held::default(), Held::default(), Held::default());
        assert_eq!(fill(&a), 50);
        assert_eq!(fill(&b), 25);
        assert_eq!(fill(&a), 0);
        quota.release(&a, 50);
        assert!(a.is_none());
        assert_eq!(fill(&c), 38);
        assert_eq!(quota.used(), 63);
    }
}
