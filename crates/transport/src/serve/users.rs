//! No one can take all places of a listener: neither a process nor a user of this machine on a Unix socket, nor a SPIFFE ID
//! over TLS.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::allowance::Allowance;
use crate::limits;

/// Counts connections by user: by whatever tells one from another.
#[derive(Debug)]
pub(super) struct Users<K> {
    limit: usize,
    open: Arc<Mutex<HashMap<K, usize>>>,
    lines: Arc<Allowance>,
}

impl<K> Clone for Users<K> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit,
            open: Arc::clone(&self.open),
            lines: Arc::clone(&self.lines),
        }
    }
}

/// One connection's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat<K: Hash + Eq> {
    users: Users<K>,
    user: K,
}

impl<K: Hash + Eq + Clone + Debug> Users<K> {
    /// Half of the connections at once are for one user, so that one alone never keeps the others out.
    pub(super) fn half_of(connections: usize) -> Self {
        Self::at_most(connections / 2)
    }

    /// So many connections are for one user, but at least one.
    pub(super) fn at_most(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            open: Arc::default(),
            lines: Arc::new(Allowance::new(limits::LINES)),
        }
    }

    /// A place for one more connection of this user.
    pub(super) fn enter(&self, user: K) -> Option<Seat<K>> {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = counts.entry(user.clone()).or_default();
        if *open >= self.limit {
            return None;
        }
        *open += 1;
        // Whoever comes and goes at the limit reaches it again and again.
        if *open == self.limit
            && let Some(held_back) = self.lines.line()
        {
            tracing::warn!(
                ?user,
                connections = *open,
                held_back = (held_back > 0).then_some(held_back),
                "This user has as many connections as one may have: more are turned away"
            );
        }
        drop(counts);
        Some(Seat {
            users: self.clone(),
            user,
        })
    }
}

impl<K: Hash + Eq> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut counts = self
            .users
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counts.get_mut(&self.user) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_gets_half_of_the_places_and_another_still_gets_one() {
        let users = Users::half_of(4);
        let held = [users.enter(1), users.enter(1)];
        assert!(held.iter().all(Option::is_some));
        assert!(users.enter(1).is_none());
        assert!(users.enter(2).is_some());
        drop(held);
        assert!(users.enter(1).is_some());
        assert!(users.open.lock().unwrap().is_empty(), "nothing is kept");
    }
}
