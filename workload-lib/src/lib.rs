#![doc = include_str!("../README.md")]

#[cfg(feature = "workload-api")]
mod builder;
mod context;
mod error;
pub mod event;
mod exchange;
pub mod inbound;
pub mod limits;
mod mesh;
pub mod outbound;
pub mod policy;
mod rpc_status;
mod source;
mod svid;
#[cfg(feature = "test-util")]
pub mod test;

/// An HTTP body: axum's, whose handlers take and give it as it is.
pub use axum::body::Body;
/// Identities, from the crate that server and node agent share.
pub use countersign_identity::{SpiffeId, TrustDomain, UnixTime, spiffe_id::InvalidId};
/// Chains and reasons, from the crate that holds the policy and decides.
pub use countersign_mesh::{ChainId, Reason};

#[cfg(feature = "workload-api")]
pub use crate::builder::{ENDPOINT_VARIABLE, JoinError, MeshBuilder, POLICY_VARIABLE};
pub use crate::context::{Chain, Context};
pub use crate::error::{
    CallError, InvalidCallee, NoIdentity, PolicyFileError, Refused, RefusedBy, ServeError,
};
pub use crate::event::{Event, Events};
pub use crate::inbound::{InboundLayer, PeerInfo, Permitted};
pub use crate::mesh::Mesh;
#[cfg(feature = "grpc")]
pub use crate::outbound::GrpcClient;
pub use crate::outbound::{CalleeClient, HttpClient, OutboundLayer};
#[cfg(feature = "workload-api")]
pub use crate::source::InvalidEndpoint;
pub use crate::svid::{Svid, SvidPicker};
