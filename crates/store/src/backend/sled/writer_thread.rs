//! The thread that owns the database.

use std::sync::Arc;

use countersign_transport::error::Chain;
use tokio::sync::{mpsc, oneshot, watch};

use super::rows::Rows;
use crate::backend::feed::ChangeFeed;
use crate::backend::{BackendError, Commit, Committed, Conflict, Key, Row, Seq, Table};
use crate::limits;

type Reply<T> = oneshot::Sender<Result<T, BackendError>>;

/// A request to the thread.
pub(super) enum Request {
    Get {
        keys: Vec<Key>,
        reply: Reply<Vec<Option<Row>>>,
    },
    Scan {
        table: Table,
        after: Option<String>,
        limit: usize,
        reply: Reply<Vec<Row>>,
    },
    Commit {
        commits: Vec<Commit>,
        reply: Reply<Committed>,
    },
}

/// Owns the database, and answers until all senders are gone or a write fails.
pub(super) struct WriterThread {
    rows: Rows,
    incoming: mpsc::Receiver<Request>,
    feed: Arc<ChangeFeed>,
    failed: watch::Sender<Option<BackendError>>,
}

/// What one sync of the disk makes durable.
#[derive(Default)]
struct Batch {
    commits: usize,
    published: Vec<(Seq, Vec<Key>)>,
    answers: Vec<(Committed, Reply<Committed>)>,
    reads: Vec<Request>,
}

impl WriterThread {
    pub(super) const fn new(
        rows: Rows,
        incoming: mpsc::Receiver<Request>,
        feed: Arc<ChangeFeed>,
        failed: watch::Sender<Option<BackendError>>,
    ) -> Self {
        Self {
            rows,
            incoming,
            feed,
            failed,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(first) = self.incoming.blocking_recv() {
            if let Err(error) = self.serve(first) {
                tracing::error!(error = %Chain(&error), "The store failed: nothing more can be written");
                self.failed.send_replace(Some(error));
                return;
            }
        }
    }

    /// Serves one request and those that wait behind it. If the disk fails, the requests are dropped, which their
    /// callers see as a closed store.
    fn serve(&mut self, first: Request) -> Result<(), BackendError> {
        let mut batch = Batch::default();
        self.take(first, &mut batch)?;
        // Group commit: a sync takes milliseconds whatever its size, so all waiting commits share it.
        while batch.commits < limits::MAX_BATCH_COMMITS {
            let Ok(request) = self.incoming.try_recv() else {
                break;
            };
            self.take(request, &mut batch)?;
        }
        // Reads alone, and commits that conflicted, have nothing to sync.
        if !batch.published.is_empty() {
            self.rows.sync()?;
        }
        for (seq, keys) in batch.published {
            self.feed.publish(seq, keys);
        }
        for (committed, reply) in batch.answers {
            // The caller may be gone.
            let _ = reply.send(Ok(committed));
        }
        for read in batch.reads {
            self.read(read);
        }
        Ok(())
    }

    /// Makes the commits of a request, not durable yet; leaves a read for after the sync, so that it shows nothing that
    /// a crash could take back.
    fn take(&mut self, request: Request, batch: &mut Batch) -> Result<(), BackendError> {
        let Request::Commit { commits, reply } = request else {
            batch.reads.push(request);
            return Ok(());
        };
        batch.commits += commits.len();
        let mut committed = Vec::with_capacity(commits.len());
        for commit in commits {
            committed.push(match self.rows.commit(&commit)? {
                Ok(seq) => {
                    let put = commit.put.into_iter().map(|(key, _)| key);
                    batch
                        .published
                        .push((seq, put.chain(commit.delete).collect()));
                    Ok(seq)
                }
                Err(key) => Err(Conflict { key }),
            });
        }
        batch.answers.push((committed, reply));
        Ok(())
    }

    fn read(&self, request: Request) {
        match request {
            Request::Get { keys, reply } => {
                let rows = keys.into_iter().map(|key| self.rows.get(&key)).collect();
                let _ = reply.send(rows);
            }
            Request::Scan {
                table,
                after,
                limit,
                reply,
            } => {
                let _ = reply.send(self.rows.scan(table, after.as_deref(), limit));
            }
            // `take` has made it.
            Request::Commit { .. } => {}
        }
    }
}
