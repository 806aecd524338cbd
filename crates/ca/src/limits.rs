//! Bounds on what comes from upstream authorities.

use std::time::Duration;

/// The largest file with certificates or a key of an upstream authority, in bytes.
pub const MAX_PEM_FILE_BYTES: u64 = 1 << 20;
/// The largest message that is taken from a Workload API or from the upstream server, in bytes.
pub const MAX_UPSTREAM_MESSAGE_BYTES: usize = 16 << 20;
/// How long the local node agent's Workload API may take to answer with this server's X.509-SVID.
pub const WORKLOAD_API_CALL: Duration = Duration::from_secs(10);
/// How long connecting to the upstream server may take.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(10);
/// How long the upstream server may take to answer.
pub const UPSTREAM_CALL: Duration = Duration::from_secs(30);
/// How long a server without a valid authority waits for its upstream at start before it exits.
pub const UPSTREAM_PATIENCE: Duration = Duration::from_secs(30);
/// The most authorities of each kind that a file or a bundle of an upstream authority may have.
pub const MAX_UPSTREAM_AUTHORITIES: usize = 1_024;
