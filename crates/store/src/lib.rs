//! The server's store, in domain words.
//!
//! Each method reads, computes and commits, and does so again when somebody else was faster. What it promises when it
//! answers is on the disk. Reads for callers of the API are not here: the server's index answers them.

use std::fmt;
use std::sync::Arc;

use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, EntryId, Node, SpiffeId, TrustDomain};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use backend::{
    Backend, BackendError, Change, Changes, Commit, Committed, Conflict, Key, Row, Seq, Table,
};
use record::Stored;

pub mod backend;
mod bundle;
mod entry;
mod federation;
pub mod limits;
pub mod metrics;
mod node;
mod record;
mod token;

pub use bundle::Edit;
pub use entry::{EntryExists, EntryMissing, UpdateError};
pub use federation::{BundleKept, Federating, RelationshipError};
pub use node::NodeError;
pub use token::{TokenExists, TokenRefused};

use metrics::{COMMIT_SECONDS, COMMITS};

/// How often a write is tried again because somebody else changed the same rows.
const MAX_RETRIES: usize = 8;

/// Why the store could not do what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The same rows were changed by others again and again.
    #[error(
        "could not {doing}: the same rows were changed by others {MAX_RETRIES} times; try again"
    )]
    Busy {
        /// What was being done.
        doing: &'static str,
    },
    /// A row does not hold what it should.
    #[error("the store holds a value at {key} that makes no sense: {why}")]
    Damaged {
        /// Which row.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// Whether trying again later may help: the database could not do something now, but did not break.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Backend(BackendError::Io { .. }) | Self::Busy { .. }
        )
    }
}

/// What a write made, and the commit that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// The object as it is now.
    pub value: T,
    /// The commit. A reader that has reached it sees the write.
    pub seq: Seq,
}

/// An object and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<T> {
    /// The object.
    pub value: T,
    /// The commit that made it; lists follow this order.
    pub created: Seq,
}

/// An object that was written or, if there is none, removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A registration entry.
    Entry(EntryId, Option<Record<Entry>>),
    /// An attested node.
    Node(SpiffeId, Option<Record<Node>>),
    /// A bundle.
    Bundle(TrustDomain, Option<Record<Bundle>>),
    /// A relationship with a foreign trust domain.
    Relationship(TrustDomain, Option<Record<Relationship>>),
}

/// What changed since a given commit.
#[derive(Clone, Debug)]
pub enum Feed {
    /// These objects, each once and as they are now, which may be later than `through`.
    Changed {
        /// Everything up to this commit is among the changes.
        through: Seq,
        /// The objects.
        objects: Vec<Changed>,
    },
    /// The store does not remember that far back: load everything.
    TooOld,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.backend).finish()
    }
}

impl Store {
    /// The store in this database.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// A store in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Arc::new(backend::memory::Memory::new()))
    }

    /// Waits until the store is broken for good, and says why. The daemon must then end.
    pub fn broken(&self) -> BoxFuture<'_, BackendError> {
        self.backend.broken()
    }

    /// The last commit, as it moves.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<Seq> {
        self.backend.head()
    }

    /// One page of all entries, by ID, after the one given; empty at the end.
    ///
    /// # Errors
    /// The database failed.
    pub async fn entries_page(
        &self,
        after: Option<&EntryId>,
    ) -> Result<Vec<Record<Entry>>, StoreError> {
        self.page(Table::Entry, after.map(|id| id.as_str().to_owned()))
            .await
    }

    /// One page of all nodes, by SPIFFE ID, after the one given; empty at the end.
    ///
    /// # Errors
    /// The database failed.
    pub async fn nodes_page(
        &self,
        after: Option<&SpiffeId>,
    ) -> Result<Vec<Record<Node>>, StoreError> {
        self.page(Table::Node, after.map(|id| id.as_str().to_owned()))
            .await
    }

    /// One page of all bundles, by trust domain, after the one given; empty at the end.
    ///
    /// # Errors
    /// The database failed.
    pub async fn bundles_page(
        &self,
        after: Option<&TrustDomain>,
    ) -> Result<Vec<Record<Bundle>>, StoreError> {
        self.page(Table::Bundle, after.map(|td| td.as_str().to_owned()))
            .await
    }

    /// One page of all relationships, by trust domain, after the one given; empty at the end.
    ///
    /// # Errors
    /// The database failed.
    pub async fn relationships_page(
        &self,
        after: Option<&TrustDomain>,
    ) -> Result<Vec<Record<Relationship>>, StoreError> {
        self.page(Table::Relationship, after.map(|td| td.as_str().to_owned()))
            .await
    }

    /// What changed after a commit, as much of it as one read takes.
    ///
    /// # Errors
    /// The database failed, or holds something that makes no sense.
    pub async fn changed(&self, after: Seq) -> Result<Feed, StoreError> {
        let Changes::Rows { through, changes } =
            self.backend.changes(after, limits::PAGE_ROWS).await?
        else {
            return Ok(Feed::TooOld);
        };
        let mut keys: Vec<Key> = changes.into_iter().map(|Change { key, .. }| key).collect();
        keys.retain(|key| {
            matches!(
                key.table(),
                Table::Entry | Table::Node | Table::Bundle | Table::Relationship
            )
        });
        keys.sort_unstable();
        keys.dedup();
        let rows = self.backend.get(keys.clone()).await?;
        let objects = keys
            .iter()
            .zip(rows)
            .map(|(key, row)| match key.table() {
                Table::Node => Ok(Changed::Node(key_id(key)?, record(row.as_ref())?)),
                Table::Bundle => Ok(Changed::Bundle(
                    key_trust_domain(key)?,
                    record(row.as_ref())?,
                )),
                Table::Relationship => Ok(Changed::Relationship(
                    key_trust_domain(key)?,
                    record(row.as_ref())?,
                )),
                _ => Ok(Changed::Entry(key_entry(key)?, record(row.as_ref())?)),
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Feed::Changed { through, objects })
    }

    async fn page<T: Stored>(
        &self,
        table: Table,
        after: Option<String>,
    ) -> Result<Vec<Record<T>>, StoreError> {
        let rows = self.backend.scan(table, after, limits::PAGE_ROWS).await?;
        rows.iter().map(T::read).collect()
    }

    /// The object in this row, with the row's version.
    async fn read<T: Stored>(&self, key: &Key) -> Result<Option<(Record<T>, Seq)>, StoreError> {
        let mut rows = self.backend.get(vec![key.clone()]).await?;
        let Some(row) = rows.pop().flatten() else {
            return Ok(None);
        };
        Ok(Some((T::read(&row)?, row.version)))
    }

    /// Makes one commit.
    async fn commit(&self, commit: Commit) -> Result<Result<Seq, Conflict>, StoreError> {
        let mut results = self.commit_all(vec![commit]).await?;
        // One commit has one result.
        Ok(results.pop().ok_or(BackendError::Closed)?)
    }

    /// Makes these commits together, each of which may fail alone.
    async fn commit_all(&self, commits: Vec<Commit>) -> Result<Committed, BackendError> {
        let began = Instant::now();
        let committed = self.backend.commit(commits).await;
        let result = if committed.is_ok() { "ok" } else { "failed" };
        ::metrics::counter!(COMMITS, "result" => result).increment(1);
        if committed.is_ok() {
            ::metrics::histogram!(COMMIT_SECONDS).record(began.elapsed());
        }
        committed
    }
}

fn record<T: Stored>(row: Option<&Row>) -> Result<Option<Record<T>>, StoreError> {
    row.map(T::read).transpose()
}

fn damaged(key: &Key, why: &dyn fmt::Display) -> StoreError {
    StoreError::Damaged {
        key: key.to_string(),
        why: why.to_string(),
    }
}

fn key_entry(key: &Key) -> Result<EntryId, StoreError> {
    EntryId::new(key.name()).map_err(|e| damaged(key, &e))
}

fn key_id(key: &Key) -> Result<SpiffeId, StoreError> {
    SpiffeId::parse(key.name()).map_err(|e| damaged(key, &e))
}

fn key_trust_domain(key: &Key) -> Result<TrustDomain, StoreError> {
    TrustDomain::new(key.name()).map_err(|e| damaged(key, &e))
}

#[cfg(test)]
mod tests;
