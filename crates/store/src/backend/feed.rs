//! The feed of changes for backends that serve one process: a bounded ring in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Change, Changes, Key, Seq};

/// Remembers the latest changes, at most `capacity` of them.
#[derive(Debug)]
pub struct ChangeFeed {
    ring: Mutex<Ring>,
    head: watch::Sender<Seq>,
    capacity: usize,
}

#[derive(Debug)]
struct Ring {
    changes: VecDeque<Change>,
    /// Everything after this commit is in the ring.
    floor: Seq,
}

impl ChangeFeed {
    /// A feed that begins after this commit.
    #[must_use]
    pub fn new(head: Seq, capacity: usize) -> Self {
        let ring = Ring {
            changes: VecDeque::new(),
            floor: head,
        };
        Self {
            ring: Mutex::new(ring),
            head: watch::Sender::new(head),
            capacity,
        }
    }

    /// Adds one commit. It must be durable, and calls must come in the order of the commits.
    pub fn publish(&self, seq: Seq, keys: impl IntoIterator<Item = Key>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.changes
            .extend(keys.into_iter().map(|key| Change { seq, key }));
        while ring.changes.len() > self.capacity {
            if let Some(dropped) = ring.changes.pop_front() {
                ring.floor = dropped.seq;
            }
        }
        // Evict whole commits: a page never has only some changes of one.
        while ring
            .changes
            .front()
            .is_some_and(|change| change.seq <= ring.floor)
        {
            ring.changes.pop_front();
        }
        self.head.send_replace(seq);
    }

    /// As [`Backend::changes`](super::Backend::changes).
    #[must_use]
    pub fn changes(&self, after: Seq, limit: usize) -> Changes {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let head = *self.head.borrow();
        // Beyond the head: the reader followed an earlier process, whose store was replaced by an older one.
        if after < ring.floor || after > head {
            return Changes::TooOld;
        }
        let first = ring.changes.partition_point(|change| change.seq <= after);
        let mut changes: Vec<Change> = Vec::new();
        for change in ring.changes.range(first..) {
            match changes.last() {
                Some(last) if changes.len() >= limit && last.seq != change.seq => {
                    return Changes::Rows {
                        through: last.seq,
                        changes,
                    };
                }
                _ => changes.push(change.clone()),
            }
        }
        Changes::Rows {
            through: head,
            changes,
        }
    }

    /// The last commit published.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<Seq> {
        self.head.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Table;

    fn key(name: &str) -> Key {
        Key::new(Table::Entry, name)
    }

    fn names(feed: &ChangeFeed, after: u64, limit: usize) -> (u64, Vec<String>) {
        match feed.changes(Seq::new(after), limit) {
            Changes::Rows { through, changes } => (
                through.get(),
                changes.iter().map(|c| c.key.name().to_owned()).collect(),
            ),
            Changes::TooOld => panic!("too old"),
        }
    }

    #[test]
    fn what_fell_out_of_the_ring_is_too_old() {
        let feed = ChangeFeed::new(Seq::new(10), 3);
        assert_eq!(feed.changes(Seq::new(9), 10), Changes::TooOld);
        assert_eq!(names(&feed, 10, 10), (10, vec![]));
        feed.publish(Seq::new(11), [key("a"), key("b")]);
        feed.publish(Seq::new(12), [key("c"), key("d")]);
        assert_eq!(feed.changes(Seq::new(10), 10), Changes::TooOld);
        assert_eq!(names(&feed, 11, 10), (12, vec!["c".into(), "d".into()]));
    }

    #[test]
    fn a_page_never_ends_amid_a_commit() {
        let feed = ChangeFeed::new(Seq::ZERO, 100);
        feed.publish(Seq::new(1), [key("a"), key("b"), key("c")]);
        feed.publish(Seq::new(2), [key("d")]);
        assert_eq!(
            names(&feed, 0, 1),
            (1, vec!["a".into(), "b".into(), "c".into()])
        );
        assert_eq!(names(&feed, 1, 1), (2, vec!["d".into()]));
    }

    #[test]
    fn a_commit_without_changes_is_passed() {
        let feed = ChangeFeed::new(Seq::ZERO, 100);
        feed.publish(Seq::new(1), [key("a")]);
        feed.publish(Seq::new(2), []);
        assert_eq!(names(&feed, 0, 1), (2, vec!["a".into()]));
        assert_eq!(names(&feed, 1, 1), (2, vec![]));
    }

    #[test]
    fn a_commit_from_another_life_is_too_old() {
        let feed = ChangeFeed::new(Seq::new(1), 100);
        assert_eq!(feed.changes(Seq::new(2), 1), Changes::TooOld);
    }
}
