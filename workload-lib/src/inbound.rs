//! Being called: no request reaches a handler without a permit.

mod answer;
#[cfg(feature = "axum")]
mod extract;
mod fields;
#[cfg(feature = "grpc")]
mod grpc;
mod layer;
mod listener;
mod peer;
mod serve;

#[cfg(feature = "axum")]
pub use self::extract::NotPermitted;
#[cfg(feature = "grpc")]
pub use self::grpc::GrpcOnly;
pub use self::layer::{Inbound, InboundLayer};
pub use self::listener::{MeshIo, MeshListener};
pub use self::peer::{PeerInfo, Permitted};
