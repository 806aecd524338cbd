//! Identity, mutual TLS and call-chain control for AI agents: the crate that agents link.

mod context;
mod current;
mod exchange;
pub mod inbound;
mod join;
pub mod limits;
mod mesh;
pub mod outbound;
mod policy;
mod source;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use countersign_identity::{SpiffeId, UnixTime};
pub use countersign_mesh::{ChainId, Reason};

pub use crate::context::{Chain, Context};
pub use crate::inbound::{InboundLayer, Permitted};
pub use crate::join::{ENDPOINT_VARIABLE, Join, JoinError, POLICY_VARIABLE};
pub use crate::mesh::{Mesh, NoIdentity};
pub use crate::outbound::{CallError, CalleeClient, Refused, RefusedBy};
pub use crate::policy::PolicyProblem;
pub use crate::source::Which;

/// An error of any kind, as HTTP bodies have it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
