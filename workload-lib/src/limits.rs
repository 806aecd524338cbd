//! Every bound on what comes from outside, in one place. What a chain may hold is bounded by the mesh crate.

use std::time::Duration;

pub use countersign_mesh::policy::MAX_POLICY_LEN as MAX_POLICY;
pub use countersign_transport::limits::HEADER_BYTES;

/// How often the policy file is looked at.
pub const POLICY_POLL: Duration = Duration::from_secs(1);
/// How long joining waits for an SVID from a node agent that answers.
pub const JOIN: Duration = Duration::from_secs(30);
/// How long joining waits for a node agent that cannot be reached.
pub const JOIN_NODE_AGENT: Duration = Duration::from_secs(1);
/// How long running exchanges have to finish when serving ends.
pub const SHUTDOWN: Duration = Duration::from_secs(10);
