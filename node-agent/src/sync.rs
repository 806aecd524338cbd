//! What this node may serve, kept true: entries, their SVIDs, bundles.
//!
//! One task owns it all ([`task`]); everybody else reads snapshots ([`feed`]). What to ask for, what to sign when and
//! what a caller gets are pure functions of the state ([`revisions`], [`rotation`], [`cache`], [`snapshot`]); the task
//! moves bytes and waits.

pub mod batch;
pub mod cache;
pub mod entry;
mod fatal;
pub mod feed;
pub mod keep;
mod remote;
mod report;
mod retry;
pub mod revisions;
pub mod rotation;
mod signing;
pub mod snapshot;
mod standing;
pub mod task;

pub use cache::{Cache, Keeping};
pub use entry::AuthorizedEntry;
pub use fatal::Fatal;
pub use feed::{Feed, Subscription};
pub use keep::Keeper;
pub use report::Reports;
pub use rotation::{Moment, Rotation};
pub use snapshot::{Answer, Known, ServedSvid, Snapshot};
pub use task::{Parts, Settings, Syncer};
