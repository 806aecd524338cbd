//! The server's store, in domain types.
//!
//! Each write reads, computes and commits, and is retried when another writer changed the same rows meanwhile. When it
//! returns it is durable, but readers may not see it yet, so it returns a [`Pending`]. Reads for callers of the API are
//! not here: the server's index answers them.

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
use txn::MAX_RETRIES;

pub mod backend;
mod bundle;
mod entry;
mod federation;
pub mod limits;
pub mod metrics;
mod node;
mod pending;
mod record;
mod token;
mod txn;

pub use bundle::BundleChange;
pub use entry::{EntryExists, EntryMissing, UpdateError};
pub use federation::{BundleError, Federating, RelationshipError};
pub use node::NodeError;
pub use pending::{Pending, Visibility};
pub use token::{TokenExists, TokenRefused};

use metrics::{COMMIT_SECONDS, COMMITS};

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Other writers changed the same rows again and again.
    #[error(
        "could not {doing}: the same rows were changed by others {MAX_RETRIES} times; try again"
    )]
    Busy {
        /// What was being done.
        doing: &'static str,
    },
    /// A row's content is invalid.
    #[error("the store holds a value at {key} that makes no sense: {why}")]
    Damaged {
        /// Which row.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// Whether a retry may help: the error is transient, and the database is not broken.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Backend(BackendError::Io { .. }) | Self::Busy { .. }
        )
    }
}

/// An object with the commit that created it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<T> {
    /// The object.
    pub value: T,
    /// The commit that created it; lists are in this order.
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
    /// The changed objects, each once and in its current state, which may be later than `through`.
    Changed {
        /// Everything up to this commit is among the changes.
        through: Seq,
        /// The objects.
        objects: Vec<Changed>,
    },
    /// The feed does not reach back that far: load everything.
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

    /// Waits until the store fails for good, and returns the reason. The daemon must then exit.
    pub fn broken(&self) -> BoxFuture<'_, BackendError> {
        self.backend.broken()
    }

    /// A watch on the last commit.
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
        // No reader needs join tokens, journals and the rows `similar/…`.
        keys.retain(|key| {
            matches!(
                key.table(),
                Table::Entry | Table::Node | Table::Bundle | Table::Relationship
            )
        });
        // An object that changed several times is read once, in its current state.
        keys.sort_unstable();
        keys.dedup();
        let rows = self.backend.get(keys.clone()).await?;
        let mut objects = Vec::with_capacity(keys.len());
        for (key, row) in keys.iter().zip(rows) {
            objects.extend(changed(key, row.as_ref())?);
        }
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

    /// The object in this row.
    async fn read<T: Stored>(&self, key: &Key) -> Result<Option<Record<T>>, StoreError> {
        let row = self.row(key).await?;
        row.as_ref().map(T::read).transpose()
    }

    async fn row(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        Ok(self.backend.get(vec![key.clone()]).await?.pop().flatten())
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

/// The change that a written or removed row stands for; `None` for a row that is not an object of its own.
fn changed(key: &Key, row: Option<&Row>) -> Result<Option<Changed>, StoreError> {
    fn record<T: Stored>(row: Option<&Row>) -> Result<Option<Record<T>>, StoreError> {
        row.map(T::read).transpose()
    }
    Ok(Some(match key.table() {
        Table::Entry => Changed::Entry(
            EntryId::new(key.name()).map_err(|e| damaged(key, &e))?,
            record(row)?,
        ),
        Table::Node => Changed::Node(
            SpiffeId::parse(key.name()).map_err(|e| damaged(key, &e))?,
            record(row)?,
        ),
        Table::Bundle => Changed::Bundle(trust_domain(key)?, record(row)?),
        Table::Relationship => Changed::Relationship(trust_domain(key)?, record(row)?),
        Table::Token | Table::Similar | Table::Ca => return Ok(None),
    }))
}

fn trust_domain(key: &Key) -> Result<TrustDomain, StoreError> {
    TrustDomain::new(key.name()).map_err(|e| damaged(key, &e))
}

fn damaged(key: &Key, why: &dyn fmt::Display) -> StoreError {
    StoreError::Damaged {
        key: key.to_string(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests;
