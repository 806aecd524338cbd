//! Who this server is to the one above it: its X.509-SVID from the Workload API of the node agent beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_identity::bundle::X509Authority;
use countersign_identity::{Bundle, BundleSet, TrustDomain, X509Svid};
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_proto::spiffe::workload::{X509svidRequest, X509svidResponse};
use countersign_transport::dial::UnixConnector;
use countersign_transport::error::Chain;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::limits;

/// What every request to a Workload API carries (SPIFFE Workload Endpoint, section 6.1).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Nobody serves the socket.
    #[error("cannot reach the Workload API at {}: {}. Check workload_api_socket, and that the node agent runs", socket.display(), Chain(why))]
    Dial {
        /// The socket.
        socket: PathBuf,
        /// Why. Told in the message, and so no source.
        why: tonic::transport::Error,
    },
    /// The node agent knows nothing about this process.
    #[error(
        "the node agent at {} has no identity for this server: on the server above, create an entry for this process with \
         -downstream, below that node agent",
        socket.display()
    )]
    NoIdentity {
        /// The socket.
        socket: PathBuf,
    },
    /// The node agent gave no answer, or another one.
    #[error("the Workload API at {} did not answer with an X.509-SVID: {reason}", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What came instead.
        reason: String,
    },
}

/// The identity, and by what the server above is verified.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) svid: X509Svid,
    pub(super) bundles: Arc<BundleSet>,
}

/// Asks for the present identity: the first of those that the node agent has for this process, as SPIRE does.
pub(super) async fn identity(
    socket: &Path,
    trust_domain: &TrustDomain,
) -> Result<Identity, WorkloadError> {
    let wrong = |reason: String| WorkloadError::Answer {
        socket: socket.into(),
        reason,
    };
    let response = tokio::time::timeout(limits::WORKLOAD_API_CALL, first_response(socket))
        .await
        .map_err(|_| wrong("it took too long".into()))??;
    let svid = response
        .svids
        .into_iter()
        .next()
        .ok_or_else(|| wrong("there is none in the answer".into()))?;
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities =
        X509Authority::split_der(&svid.bundle).map_err(|e| wrong(format!("bundle: {e}")))?;
    let svid = X509Svid::from_der(&svid.x509_svid, &svid.x509_svid_key)
        .map_err(|e| wrong(e.to_string()))?;
    if !svid.id().is_member_of(trust_domain) {
        return Err(wrong(format!(
            "{} is not of the trust domain {trust_domain}",
            svid.id()
        )));
    }
    let bundles = Arc::new([bundle].into_iter().collect());
    Ok(Identity { svid, bundles })
}

async fn first_response(socket: &Path) -> Result<X509svidResponse, WorkloadError> {
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(UnixConnector::new(socket))
        .await
        .map_err(|why| WorkloadError::Dial {
            socket: socket.into(),
            why,
        })?;
    let failed = |status: Status| match status.code() {
        Code::PermissionDenied => WorkloadError::NoIdentity {
            socket: socket.into(),
        },
        code => WorkloadError::Answer {
            socket: socket.into(),
            reason: format!("{} ({code:?})", status.message()),
        },
    };
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    let mut answers = SpiffeWorkloadApiClient::new(channel)
        .max_decoding_message_size(limits::MAX_UPSTREAM_MESSAGE_BYTES)
        .fetch_x509svid(request)
        .await
        .map_err(failed)?
        .into_inner();
    let first = answers.message().await.map_err(failed)?;
    first.ok_or_else(|| WorkloadError::Answer {
        socket: socket.into(),
        reason: "the stream ended".into(),
    })
}
