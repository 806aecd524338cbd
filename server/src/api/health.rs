//! Health: the server serves if its own bundle can be read from the store. One check at a time is all there is, as with
//! SPIRE's server: listing and watching are not implemented.

use std::sync::Arc;

use countersign_proto::grpc::health::v1 as wire;
use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
use countersign_transport::error::Chain;
use tonic::{Request, Response, Status};

use super::Context;

/// The service.
pub(super) struct HealthService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl wire::health_server::Health for HealthService {
    type WatchStream = tokio_stream::Empty<Result<wire::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckResponse>, Status> {
        let wire::HealthCheckRequest { service } = request.into_inner();
        if !service.is_empty() {
            return Err(Status::invalid_argument(
                "per-service health is not supported",
            ));
        }
        let parts = &self.0.parts;
        let status = match parts.store.bundle_get(&parts.trust_domain).await {
            Ok(Some(_)) => ServingStatus::Serving,
            Ok(None) => ServingStatus::NotServing,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "The server is not healthy: its bundle can't be read");
                ServingStatus::NotServing
            }
        };
        Ok(Response::new(wire::HealthCheckResponse {
            status: status.into(),
        }))
    }

    async fn list(
        &self,
        _request: Request<wire::HealthListRequest>,
    ) -> Result<Response<wire::HealthListResponse>, Status> {
        Err(Status::unimplemented("method List not implemented"))
    }

    async fn watch(
        &self,
        _request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}
