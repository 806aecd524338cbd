//! A tonic service: the health service, whose `Watch` streams until its caller goes.

use std::pin::Pin;

use countersign::{CalleeClient, Context};
use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
use countersign_proto::grpc::health::v1::health_client::HealthClient;
use countersign_proto::grpc::health::v1::health_server::Health;
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

/// Allows every method of the service.
pub(crate) const HEALTH: &str = "\"/grpc.health.v1.Health/*\"";

/// Answers `SERVING` within a context, and `SERVICE_UNKNOWN` without one. `Watch` says it once and then nothing more.
pub(crate) struct Healthy;

fn verdict(context: Option<&Context>) -> HealthCheckResponse {
    let status = if context.is_some() {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "never" => std::future::pending().await,
            _ => Ok(Response::new(verdict(
                Context::from_extensions(request.extensions()).as_ref(),
            ))),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // The task-local is looked at from within the stream.
        let once = futures::stream::once(async { Ok(verdict(Context::current().as_ref())) });
        Ok(Response::new(Box::pin(
            once.chain(futures::stream::pending()),
        )))
    }
}

/// The router of the service, for a member of a world.
pub(crate) fn router(mesh: &countersign::Mesh) -> axum::Router {
    use countersign_proto::grpc::health::v1::health_server::HealthServer;
    let service = HealthServer::from_arc(std::sync::Arc::new(Healthy));
    tonic::service::Routes::new(mesh.grpc(service)).into_axum_router()
}

/// Calls `Check`.
pub(crate) async fn check(client: &CalleeClient) -> Result<String, Status> {
    check_service(client, "").await
}

/// Calls `Check` for a service by name.
pub(crate) async fn check_service(client: &CalleeClient, service: &str) -> Result<String, Status> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(client.grpc())
        .check(request)
        .await?
        .into_inner();
    Ok(answer.status().as_str_name().to_owned())
}
