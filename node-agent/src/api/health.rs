//! gRPC health on the public socket: the node agent asks itself, as a workload would (wire contract, F.6).

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_server,
};
use futures::Stream;
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

use crate::workload_client::WorkloadClient;

/// Timeout of the node agent's own answer.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Health {
    socket: Option<PathBuf>,
    /// The number of checks that were started.
    begun: Arc<AtomicU64>,
    /// The number and the result of the last check. Locked while one is in progress.
    last: Arc<Mutex<(u64, bool)>>,
}

impl Health {
    /// Checks the Workload API on this socket; if it is not served, health is always SERVING, as in SPIRE.
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self {
            socket,
            begun: Arc::default(),
            last: Arc::default(),
        }
    }

    /// The result of a check that is started after this call. Concurrent calls share one check: each takes a connection
    /// and an attestation of this process's own user, which any caller could use up otherwise.
    async fn look(&self) -> bool {
        let arrival = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.0 <= arrival {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            *last = (number, self.works().await);
        }
        last.1
    }

    /// Any response shows that the whole path works. PERMISSION_DENIED is usual: this process itself has no identity.
    async fn works(&self) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        let ask = async {
            let mut client = WorkloadClient::connect(socket).await.ok()?;
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
        matches!(tokio::time::timeout(TIMEOUT, ask).await, Ok(Some(())))
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
        let status = if self.look().await {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_flood_of_checks_is_a_few_looks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let answering = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(caller);
            }
        });
        let health = Health::new(Some(path));
        let all = futures::future::join_all((0..50).map(|_| health.look())).await;
        assert!(all.iter().all(|well| !well), "nobody answered");
        assert!(looks.load(Ordering::SeqCst) < 10, "{looks:?} looks");
        // One that comes later looks anew.
        let before = looks.load(Ordering::SeqCst);
        assert!(!health.look().await);
        assert!(looks.load(Ordering::SeqCst) > before);
        answering.abort();
    }
}
