//! The ledger of a context: one atomic number.

use std::sync::atomic::{AtomicU16, Ordering};

/// How many calls may still be made or handed on.
#[derive(Debug)]
pub(crate) struct Ledger(AtomicU16);

impl Ledger {
    pub(crate) const fn new(budget: u16) -> Self {
        Self(AtomicU16::new(budget))
    }

    pub(crate) fn remaining(&self) -> u16 {
        self.0.load(Ordering::Relaxed)
    }

    /// Pays 1 for a call and what `grant` says of the rest then, at most all of it. What was granted; `None` if nothing
    /// was left to pay with.
    pub(crate) fn pay(&self, grant: impl Fn(u16) -> u16) -> Option<u16> {
        let mut rest = self.remaining();
        loop {
            let after_call = rest.checked_sub(1)?;
            let granted = grant(after_call).min(after_call);
            let next = after_call - granted;
            match self
                .0
                .compare_exchange_weak(rest, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(granted),
                Err(current) => rest = current,
            }
        }
    }

    /// Takes back what was paid before.
    pub(crate) fn refund(&self, calls: u16) {
        let more = |rest: u16| Some(rest.saturating_add(calls));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    proptest::proptest! {
        /// Whatever is asked for, calls and grants together never exceed what was there.
        #[test]
        fn a_ledger_never_grants_more_than_its_rest(
            budget: u16, wishes in proptest::collection::vec((0_u16.., proptest::bool::ANY), 0..50),
        ) {
            let ledger = Ledger::new(budget);
            let mut spent = 0_u32;
            for (wish, refused) in wishes {
                let Some(granted) = ledger.pay(|_| wish) else {
                    proptest::prop_assert_eq!(ledger.remaining(), 0);
                    continue;
                };
                proptest::prop_assert!(granted <= wish);
                spent += 1 + u32::from(granted);
                if refused {
                    ledger.refund(granted);
                    spent -= u32::from(granted);
                }
                proptest::prop_assert_eq!(spent + u32::from(ledger.remaining()), u32::from(budget));
            }
        }
    }

    #[test]
    fn threads_that_share_a_ledger_cannot_overspend_it() {
        let ledger = Arc::new(Ledger::new(1_000));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || {
                    std::iter::from_fn(|| ledger.pay(|_| 1))
                        .map(|g| 1 + u32::from(g))
                        .sum::<u32>()
                })
            })
            .collect();
        let spent: u32 = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        assert_eq!(spent, 1_000);
    }
}
