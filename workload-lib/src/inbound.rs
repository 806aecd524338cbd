//! Being called: nobody reaches a handler without a permit.

pub(crate) mod answer;
mod fields;
mod grpc;
mod layer;
mod listener;
mod serve;

pub use self::grpc::GrpcOnly;
pub use self::layer::{Inbound, InboundLayer, Permitted};
pub use self::listener::{AcceptedFrom, MeshIo, MeshListener};
