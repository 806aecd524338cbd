//! A store in memory, gone with the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;

use super::feed::ChangeFeed;
use super::{Backend, BackendError, Changes, Commit, Committed, Conflict, Key, Row, Seq, Table};
use crate::limits;

/// A store in memory.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    feed: ChangeFeed,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Key, (Seq, Bytes)>,
    head: Seq,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            feed: ChangeFeed::new(Seq::ZERO, limits::MAX_REMEMBERED_CHANGES),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn apply(&mut self, commit: Commit) -> Result<(Seq, Vec<Key>), Conflict> {
        for (key, expect) in commit.expect {
            if !expect.holds(self.rows.get(&key).map(|(version, _)| *version)) {
                return Err(Conflict { key });
            }
        }
        let seq = self.head.next();
        self.head = seq;
        let mut touched = Vec::with_capacity(commit.put.len() + commit.delete.len());
        for key in commit.delete {
            self.rows.remove(&key);
            touched.push(key);
        }
        for (key, value) in commit.put {
            self.rows.insert(key.clone(), (seq, value));
            touched.push(key);
        }
        Ok((seq, touched))
    }
}

impl Backend for Memory {
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Option<Row>>, BackendError>> {
        let rows = self.with(|state| {
            keys.into_iter()
                .map(|key| {
                    let (version, value) = state.rows.get(&key)?.clone();
                    Some(Row {
                        key,
                        version,
                        value,
                    })
                })
                .collect()
        });
        future::ready(Ok(rows)).boxed()
    }

    fn scan(
        &self,
        table: Table,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Row>, BackendError>> {
        let from = match after {
            Some(name) => Bound::Excluded(Key::new(table, &name)),
            None => Bound::Included(Key::new(table, "")),
        };
        let rows = self.with(|state| {
            state
                .rows
                .range((from, Bound::Unbounded))
                .take_while(|(key, _)| key.table() == table)
                .take(limit)
                .map(|(key, (version, value))| Row {
                    key: key.clone(),
                    version: *version,
                    value: value.clone(),
                })
                .collect()
        });
        future::ready(Ok(rows)).boxed()
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'_, Result<Committed, BackendError>> {
        let results = self.with(|state| {
            commits
                .into_iter()
                .map(|commit| {
                    let (seq, touched) = state.apply(commit)?;
                    // Under the lock, so that the feed has the order of the commits.
                    self.feed.publish(seq, touched);
                    Ok(seq)
                })
                .collect()
        });
        future::ready(Ok(results)).boxed()
    }

    fn changes(&self, after: Seq, limit: usize) -> BoxFuture<'_, Result<Changes, BackendError>> {
        future::ready(Ok(self.feed.changes(after, limit))).boxed()
    }

    fn head(&self) -> watch::Receiver<Seq> {
        self.feed.head()
    }

    fn broken(&self) -> BoxFuture<'_, BackendError> {
        future::pending().boxed()
    }
}
