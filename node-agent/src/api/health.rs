//! gRPC health on the public socket: the node agent asks itself, as a workload would (wire contract, F.6).

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_server,
};
use futures::Stream;
use tonic::{Code, Request, Response, Status};

use crate::workload_client::WorkloadClient;

/// How long the own answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// The service.
#[derive(Clone, Debug)]
pub struct Health {
    socket: PathBuf,
}

impl Health {
    /// Judges by the Workload API on this socket.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Any answer shows that the whole way works; that this process itself has no identity is the usual one.
    async fn works(&self) -> bool {
        let ask = async {
            let mut client = WorkloadClient::connect(&self.socket).await.ok()?;
            match client.x509_svids().await {
                Ok(mut answers) => answers
                    .message()
                    .await
                    .map(|_| ())
                    .map_err(|s| s.code())
                    .err(),
                Err(status) => Some(status.code()),
            }
            .map_or(Some(()), |code| {
                (code == Code::PermissionDenied).then_some(())
            })
        };
        matches!(tokio::time::timeout(PATIENCE, ask).await, Ok(Some(())))
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::invalid_argument(
                "per-service health is not supported",
            ));
        }
        let status = if self.works().await {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("List is not supported: use Check"))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("Watch is not supported: use Check"))
    }
}
