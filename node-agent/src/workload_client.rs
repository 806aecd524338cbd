//! The other end of the Workload API: for the command line, and for the node agent's check of itself.

use std::path::Path;

use countersign_proto::grpc::health::v1::health_client::HealthClient;
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus,
};
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use countersign_transport::dial::UnixConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::limits;

/// The header by which a caller shows that it means to speak to the Workload API, and was not tricked into it (SPIFFE
/// Workload Endpoint, 6.1).
pub(crate) const SECURITY_HEADER: &str = "workload.spiffe.io";

/// A connection to a Workload API socket.
#[derive(Clone, Debug)]
pub struct WorkloadClient(Channel);

impl WorkloadClient {
    /// Connects.
    ///
    /// # Errors
    /// There is no such socket, or no process listens on it.
    pub async fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        Endpoint::from_static("http://localhost")
            .connect_with_connector(UnixConnector::new(socket))
            .await
            .map(Self)
    }

    /// The caller's SVIDs as they change.
    ///
    /// # Errors
    /// What the node agent answered.
    pub async fn x509_svids(&mut self) -> Result<Streaming<X509svidResponse>, Status> {
        let answers = self
            .workload()
            .fetch_x509svid(secured(X509svidRequest {}))
            .await?;
        Ok(answers.into_inner())
    }

    /// The caller's bundles as they change.
    ///
    /// # Errors
    /// What the node agent answered.
    pub async fn x509_bundles(&mut self) -> Result<Streaming<X509BundlesResponse>, Status> {
        let answers = self
            .workload()
            .fetch_x509_bundles(secured(X509BundlesRequest {}))
            .await?;
        Ok(answers.into_inner())
    }

    /// The caller's JWT bundles as they change.
    ///
    /// # Errors
    /// What the node agent answered.
    pub(crate) async fn jwt_bundles(&mut self) -> Result<Streaming<JwtBundlesResponse>, Status> {
        let answers = self
            .workload()
            .fetch_jwt_bundles(secured(JwtBundlesRequest {}))
            .await?;
        Ok(answers.into_inner())
    }

    /// JWT-SVIDs of the caller.
    ///
    /// # Errors
    /// What the node agent answered.
    pub(crate) async fn jwt_svids(
        &mut self,
        request: JwtsvidRequest,
    ) -> Result<JwtsvidResponse, Status> {
        let answer = self.workload().fetch_jwtsvid(secured(request)).await?;
        Ok(answer.into_inner())
    }

    /// What a JWT-SVID says, if it is valid.
    ///
    /// # Errors
    /// What the node agent answered: INVALID_ARGUMENT if it is not valid.
    pub(crate) async fn validate_jwt(
        &mut self,
        request: ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let answer = self.workload().validate_jwtsvid(secured(request)).await?;
        Ok(answer.into_inner())
    }

    /// Whether the node agent is well.
    ///
    /// # Errors
    /// What the node agent answered.
    pub(crate) async fn health(&mut self) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let answer = HealthClient::new(self.0.clone())
            .check(request)
            .await?
            .into_inner();
        Ok(ServingStatus::try_from(answer.status).unwrap_or(ServingStatus::Unknown))
    }

    fn workload(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.0.clone())
            .max_decoding_message_size(limits::WORKLOAD_MESSAGE_BYTES)
    }
}

fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}
