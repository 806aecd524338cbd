//! Names of the store's metrics. The server's `metrics` module registers and describes them.

/// Counter, by `result` (`ok`, `failed`): calls that wrote.
pub const COMMITS: &str = "countersign_server_store_commits_total";
/// Histogram: seconds until what was written is on the disk.
pub const COMMIT_SECONDS: &str = "countersign_server_store_commit_seconds";
