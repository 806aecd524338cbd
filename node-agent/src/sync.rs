//! Keeps what this node serves up to date: entries, their SVIDs, bundles.
//!
//! One task owns it all ([`syncer`]); all others read snapshots ([`feed`]). What to ask for, what to sign when, what a
//! refusal means and what a caller gets are pure functions of the state ([`revisions`], [`cache`], [`judge`],
//! [`snapshot`]); the task does the I/O and waits.

pub(crate) mod batch;
pub(crate) mod cache;
mod fatal;
pub(crate) mod feed;
mod health;
mod judge;
mod reattest;
mod retry;
pub(crate) mod revisions;
mod rpc;
mod signing;
pub(crate) mod snapshot;
mod svid_persister;
mod syncer;

pub(crate) use cache::{CacheConfig, SvidCache};
pub(crate) use fatal::Fatal;
pub use feed::Feed;
pub(crate) use feed::Subscription;
pub(crate) use health::SyncHealth;
pub(crate) use snapshot::WorkloadAnswer;
pub use snapshot::{EntrySource, ServedEntry, Snapshot};
pub(crate) use svid_persister::SvidPersister;
pub(crate) use syncer::{Parts, RunningSyncer, StartingSyncer, SyncConfig};
