//! Bounds of the store.

use std::time::Duration;

/// The largest piece of a value in one row of sled, in bytes: sled keeps larger pages in files that it never syncs.
pub const MAX_CHUNK_BYTES: usize = 64 << 10;
/// The most commits that share one sync of the disk.
pub const MAX_BATCH_COMMITS: usize = 256;
/// The most requests that wait for the writer thread.
pub const MAX_QUEUED_REQUESTS: usize = 1_024;
/// sled's cache, in bytes; sled uses a multiple of it. Small, since the server's index answers the reads.
pub const CACHE_BYTES: u64 = 8 << 20;
/// How long closing waits for sled's own threads to release its file. They take milliseconds.
pub const CLOSE_TIME: Duration = Duration::from_secs(5);
/// The most changes that the feed of the memory and sled backends holds.
pub const MAX_REMEMBERED_CHANGES: usize = 65_536;
/// The most rows that one read loads.
pub const PAGE_ROWS: usize = 1_000;
/// The most entries that one commit changes when a bundle is removed; more are changed in commits before it.
pub const MAX_COMMIT_ENTRIES: usize = 1_000;
