//! What a database must offer to be the server's store: rows with versions, commits that are atomic and durable when
//! answered, and a feed of changes. Of the domain it knows the names of the tables only.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

#[cfg(test)]
pub(crate) mod conformance;
pub mod feed;
#[cfg(any(test, feature = "test-util"))]
pub mod flaky;
pub mod memory;
pub mod sled;

/// The place of a commit in the order of all commits. The first is 1; 0 stands for the empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);

    /// From its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The tables. Their numbers are on the disk: they are never changed or reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Registration entries, by ID.
    Entry = 1,
    /// Attested nodes, by SPIFFE ID.
    Node = 2,
    /// Bundles, by trust domain.
    Bundle = 3,
    /// Join tokens, by value.
    Token = 4,
    /// Which entries are similar, by the hash of what makes them so.
    Similar = 5,
    /// Authorities' journals, by server ID.
    Ca = 6,
    /// Relationships with foreign trust domains, by trust domain.
    Relationship = 7,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Entry,
        Self::Node,
        Self::Bundle,
        Self::Token,
        Self::Similar,
        Self::Ca,
        Self::Relationship,
    ];

    /// The number on the disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Node => 2,
            Self::Bundle => 3,
            Self::Token => 4,
            Self::Similar => 5,
            Self::Ca => 6,
            Self::Relationship => 7,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Node => "node",
            Self::Bundle => "bundle",
            Self::Token => "token",
            Self::Similar => "similar",
            Self::Ca => "ca",
            Self::Relationship => "relationship",
        }
    }
}

/// The key of one row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    table: Table,
    name: Box<str>,
}

impl Key {
    /// The row of this name in this table.
    #[must_use]
    pub fn new(table: Table, name: &str) -> Self {
        Self {
            table,
            name: name.into(),
        }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> Table {
        self.table
    }

    /// The name within the table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    /// `table/name`; a join token's name is a secret and is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table {
            Table::Token => f.write_str("token/<secret>"),
            table => write!(f, "{}/{}", table.name(), self.name),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One row as it is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// The commit that wrote it last.
    pub version: Seq,
    /// An encoded message of `countersign.store.v1`.
    pub value: Bytes,
}

/// What a commit expects of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// There is one, whatever its version.
    Present,
    /// There is one, and this commit wrote it last.
    Version(Seq),
}

impl Expect {
    /// Whether a row with this version, or no row, is what was expected.
    #[must_use]
    pub fn holds(self, found: Option<Seq>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Version(version) => found == Some(version),
        }
    }
}

/// A change of several rows, made as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// What must hold, checked in this order.
    pub expect: Vec<(Key, Expect)>,
    /// Rows to write.
    pub put: Vec<(Key, Bytes)>,
    /// Rows to remove, if they are there.
    pub delete: Vec<Key>,
}

/// A commit was not made: this row was the first that was not as expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is not as expected")]
pub struct Conflict {
    /// The row.
    pub key: Key,
}

/// That a row was written or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// By which commit.
    pub seq: Seq,
    /// Which row.
    pub key: Key,
}

/// What changed since a given commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// In the order of the commits; the changes of one commit are never split.
    Rows {
        /// Everything up to this commit is among them. A commit that changed nothing has none.
        through: Seq,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The store does not remember that far back: load everything.
    TooOld,
}

/// Why the database failed. One that can't promise any more that acknowledged commits are on the disk accepts no further
/// ones, and resolves [`Backend::broken`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Reading or writing failed.
    #[error("the store failed to {doing}: {why}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the database or the system said.
        why: String,
    },
    /// What was read can't be decoded.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// Where and how.
        what: String,
    },
    /// The store was closed, possibly because an earlier write failed.
    #[error("the store is closed")]
    Closed,
}

/// The answer to a batch of commits: one result for each, in order.
pub type Committed = Vec<Result<Seq, Conflict>>;

/// A database that can be the server's store.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// The rows with these keys, in their order.
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Option<Row>>, BackendError>>;

    /// At most `limit` rows of a table, in the order of their names, beginning after the name given.
    fn scan(
        &self,
        table: Table,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Row>, BackendError>>;

    /// Makes commits, each on its own, in this order. Answers once all that succeeded are on the disk; an error means
    /// that it isn't known which of them are.
    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'_, Result<Committed, BackendError>>;

    /// What changed after a commit; stops after `limit` changes, at the end of a commit.
    fn changes(&self, after: Seq, limit: usize) -> BoxFuture<'_, Result<Changes, BackendError>>;

    /// The last commit that is on the disk and in the feed of changes, as it moves.
    fn head(&self) -> watch::Receiver<Seq>;

    /// Waits until the store is broken for good, and returns why. The daemon must then end.
    fn broken(&self) -> BoxFuture<'_, BackendError>;
}
