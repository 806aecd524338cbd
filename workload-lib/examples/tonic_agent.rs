//! A gRPC service in the mesh: the health protocol, answered to workloads that policy allows.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/countersign/agent.sock COUNTERSIGN_POLICY=mesh.hcl tonic_agent 0.0.0.0:8443
//! ```
//!
//! The policy's action for it is `/grpc.health.v1.Health/*`.

use std::pin::Pin;

use anyhow::Context as _;
use countersign::{Context, Mesh};
use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
use countersign_proto::grpc::health::v1::health_server::{Health, HealthServer};
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let listen = std::env::args()
        .nth(1)
        .context("usage: tonic_agent LISTEN")?;
    let mesh = Mesh::join().await?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!(id = %mesh.svid()?.id(), address = %listener.local_addr()?, "Serving");
    mesh.serve(listener, mesh.grpc(HealthServer::new(Healthy)))
        .await?;
    Ok(())
}

struct Healthy;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }
}

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        // The same context is in the request and around the handler.
        if let Some(context) = Context::from_extensions(request.extensions()) {
            let members: Vec<_> = context.members().map(ToString::to_string).collect();
            tracing::info!(chain = %context.chain_id(), through = members.join(" > "), "Checked");
        }
        Ok(Response::new(serving()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Stays open until the caller goes or the chain's deadline resets it.
    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use futures::StreamExt as _;
        let once = futures::stream::once(async { Ok(serving()) });
        Ok(Response::new(Box::pin(
            once.chain(futures::stream::pending()),
        )))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("this service has one status"))
    }
}
