//! A backend that fails on demand, for tests.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;

use super::memory::Memory;
use super::{Backend, BackendError, Changes, Commit, Committed, Key, Row, Seq, Table};

/// The simulated fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nothing can be read or written.
    Everything,
    /// Writes take effect but report an error, as when a connection breaks before the answer.
    Answers,
    /// What changed can't be read.
    Changes,
}

/// A store in memory with a switch.
#[derive(Clone, Debug)]
pub struct Flaky {
    inner: Arc<Memory>,
    fault: Arc<Mutex<Fault>>,
}

impl Flaky {
    /// A store that works.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Memory::new()),
            fault: Arc::new(Mutex::new(Fault::None)),
        }
    }

    /// Sets the fault.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) == fault
    }
}

impl Default for Flaky {
    fn default() -> Self {
        Self::new()
    }
}

fn failed<T: Send + 'static>(doing: &'static str) -> BoxFuture<'static, Result<T, BackendError>> {
    let why = "the test says so".to_owned();
    future::ready(Err(BackendError::Io { doing, why })).boxed()
}

impl Backend for Flaky {
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Option<Row>>, BackendError>> {
        if self.is(Fault::Everything) {
            return failed("read");
        }
        self.inner.get(keys)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Row>, BackendError>> {
        if self.is(Fault::Everything) {
            return failed("read");
        }
        self.inner.scan(table, after, limit)
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'_, Result<Committed, BackendError>> {
        if self.is(Fault::Everything) {
            return failed("write");
        }
        let lost = self.is(Fault::Answers);
        async move {
            let committed = self.inner.commit(commits).await;
            if lost {
                failed("write").await
            } else {
                committed
            }
        }
        .boxed()
    }

    fn changes(&self, after: Seq, limit: usize) -> BoxFuture<'_, Result<Changes, BackendError>> {
        if self.is(Fault::Everything) || self.is(Fault::Changes) {
            return failed("read what changed");
        }
        self.inner.changes(after, limit)
    }

    fn head(&self) -> watch::Receiver<Seq> {
        self.inner.head()
    }

    fn broken(&self) -> BoxFuture<'_, BackendError> {
        self.inner.broken()
    }
}
