//! The calls of one peer that were seen, by their IDs.
//!
//! A call is kept as long as its link could pass for fresh: until its `iat` + 60 s. Calls are kept by spans of `iat`, so
//! that forgetting is dropping a whole span.

use std::collections::HashSet;

use super::{Held, MAX_AGE, Quota};

/// How many seconds of `iat` go into one span.
const SPAN: u64 = 32;

/// A call's ID.
pub(crate) type CallId = [u8; 16];

/// Whether a call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is new, and known from now on.
    New,
    /// It was there before.
    Before,
    /// The peer's share of the memory is used up.
    NoRoom,
}

/// What one peer called.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    spans: Vec<(u64, HashSet<CallId>)>,
    /// The latest `iat` whose calls may have been forgotten. A request that looked at the clock before they were cannot
    /// bring one of them again.
    forgotten: Option<u64>,
}

impl Replay {
    /// Notes a call that was made at `iat`.
    pub(crate) fn note(&mut self, call: CallId, iat: u64, quota: &Quota, held: &Held) -> Seen {
        if self.forgotten.is_some_and(|last| iat <= last)
            || self.spans.iter().any(|(_, calls)| calls.contains(&call))
        {
            return Seen::Before;
        }
        if !quota.claim(held) {
            return Seen::NoRoom;
        }
        let span = iat / SPAN;
        match self.spans.iter_mut().find(|(of, _)| *of == span) {
            Some((_, calls)) => {
                calls.insert(call);
            }
            None => self.spans.push((span, HashSet::from([call]))),
        }
        Seen::New
    }

    /// Forgets one call, because its request was refused after all.
    pub(crate) fn undo(&mut self, call: &CallId, quota: &Quota, held: &Held) {
        if self.spans.iter_mut().any(|(_, calls)| calls.remove(call)) {
            quota.release(held, 1);
        }
    }

    /// Forgets the calls that could not pass for fresh at `now`. Whether anything was forgotten.
    pub(crate) fn sweep(&mut self, now: u64, quota: &Quota, held: &Held) -> bool {
        let mut forgotten = 0;
        let last = &mut self.forgotten;
        self.spans.retain(|(span, calls)| {
            let last_iat = span * SPAN + (SPAN - 1);
            let keep = now <= last_iat + MAX_AGE;
            if !keep {
                forgotten += calls.len();
                *last = (*last).max(Some(last_iat));
            }
            keep
        });
        quota.release(held, forgotten);
        forgotten > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_until_its_link_is_stale() {
        let (mut replay, quota, held) = (Replay::default(), Quota::new(10), Held::default());
        let iat = SPAN * 100;
        assert_eq!(replay.note([1; 16], iat, &quota, &held), Seen::New);
        assert_eq!(replay.note([1; 16], iat + 40, &quota, &held), Seen::Before);
        replay.sweep(iat + MAX_AGE, &quota, &held);
        assert_eq!(replay.note([1; 16], iat, &quota, &held), Seen::Before);
        assert!(replay.sweep(iat + MAX_AGE + SPAN, &quota, &held));
        assert_eq!(quota.used(), 0);
        // A request that read the clock before the sweep must not bring a forgotten call again.
        assert_eq!(replay.note([1; 16], iat, &quota, &held), Seen::Before);
        let fresh = iat + MAX_AGE + SPAN;
        assert_eq!(replay.note([2; 16], fresh, &quota, &held), Seen::New);
        assert_eq!(quota.used(), 1);
    }

    #[test]
    fn nothing_live_is_forgotten_for_something_new() {
        let (mut replay, quota, held) = (Replay::default(), Quota::new(4), Held::default());
        assert_eq!(replay.note([1; 16], 0, &quota, &held), Seen::New);
        assert_eq!(replay.note([2; 16], 0, &quota, &held), Seen::New);
        assert_eq!(replay.note([3; 16], 0, &quota, &held), Seen::NoRoom);
        assert_eq!(replay.note([1; 16], 0, &quota, &held), Seen::Before);
        replay.undo(&[2; 16], &quota, &held);
        assert_eq!(replay.note([3; 16], 0, &quota, &held), Seen::New);
    }
}
