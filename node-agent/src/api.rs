//! What workloads see: the SPIFFE Workload API and gRPC health, on one Unix socket.
//!
//! A request enters here, becomes a caller, selectors, a subscription; what it gets was decided by `sync::snapshot`.

mod caller;
mod health;
mod stream;
mod workload;

use std::path::PathBuf;

use axum::Router;
use countersign_proto::grpc::health::v1::health_server::HealthServer;
use countersign_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::selectors::Attestors;
use crate::sync::Feed;

pub(crate) use caller::SECURITY_HEADER;
pub use health::Health;
pub use workload::WorkloadApi;

/// Everything on the public socket at `socket`. Streams end with UNAVAILABLE when `stop` is cancelled.
pub fn router(
    feed: Feed,
    attestors: Attestors,
    socket: PathBuf,
    stop: CancellationToken,
) -> Router {
    Routes::new(SpiffeWorkloadApiServer::new(WorkloadApi::new(
        feed, attestors, stop,
    )))
    .add_service(HealthServer::new(Health::new(socket)))
    .into_axum_router()
}

#[cfg(test)]
mod tests;
