//! This server's identity towards its upstream: an X.509-SVID from the local node agent's Workload API.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_identity::bundle::{InvalidAuthority, X509Authority};
use countersign_identity::svid::SvidError;
use countersign_identity::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Svid};
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_proto::spiffe::workload::{X509svidRequest, X509svidResponse};
use countersign_transport::dial::UnixConnector;
use countersign_transport::error::Chain;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::limits;

/// The metadata key that every request to a Workload API must carry (SPIFFE Workload Endpoint, section 6.1).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// There is no Workload API at the socket.
    #[error("cannot reach the Workload API at {}: {}. Check workload_api_socket, and that the node agent runs", socket.display(), Chain(why))]
    Dial {
        /// The socket.
        socket: PathBuf,
        /// Why not. Part of the message before the advice, so it is no source.
        why: tonic::transport::Error,
    },
    /// No entry matches this process.
    #[error(
        "the node agent at {} has no identity for this server: on the upstream server, create an entry for this process with \
         -downstream and that node agent as its parent",
        socket.display()
    )]
    NoIdentity {
        /// The socket.
        socket: PathBuf,
    },
    /// The answer is not an identity of this server.
    #[error("the Workload API at {} did not answer with an X.509-SVID", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What came instead.
        source: InvalidIdentity,
    },
}

/// Why an answer of the Workload API is not an identity of this server.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIdentity {
    /// It did not come in time.
    #[error("it took too long")]
    TimedOut,
    /// The stream ended before the first answer.
    #[error("the stream ended")]
    Ended,
    /// The node agent refused.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(Box<Status>),
    /// The answer has no SVID.
    #[error("there is none in the answer")]
    Missing,
    /// The bundle can't be used.
    #[error("the bundle can't be used")]
    Bundle(#[from] InvalidAuthority),
    /// Certificates or key can't be used.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The SVID is of another trust domain.
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// Whose it is.
        id: SpiffeId,
        /// Of which it should be.
        trust_domain: TrustDomain,
    },
}

/// The identity, and the bundles that verify the upstream server.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) svid: X509Svid,
    pub(super) bundles: Arc<BundleSet>,
}

/// Fetches the current identity. Of several, the first is used: the default identity, as in SPIRE.
pub(super) async fn identity(
    socket: &Path,
    trust_domain: &TrustDomain,
) -> Result<Identity, WorkloadError> {
    let response = tokio::time::timeout(limits::WORKLOAD_API_CALL, first_response(socket))
        .await
        .map_err(|_| invalid(socket)(InvalidIdentity::TimedOut))??;
    read_identity(response, trust_domain).map_err(invalid(socket))
}

fn read_identity(
    response: X509svidResponse,
    trust_domain: &TrustDomain,
) -> Result<Identity, InvalidIdentity> {
    let mut svids = response.svids.into_iter();
    let svid = svids.next().ok_or(InvalidIdentity::Missing)?;
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities = X509Authority::split_der(&svid.bundle)?;
    let svid = X509Svid::from_der(&svid.x509_svid, &svid.x509_svid_key)?;
    if !svid.id().is_member_of(trust_domain) {
        return Err(InvalidIdentity::TrustDomain {
            id: svid.id().clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    let bundles = Arc::new([bundle].into_iter().collect());
    Ok(Identity { svid, bundles })
}

fn invalid(socket: &Path) -> impl Fn(InvalidIdentity) -> WorkloadError {
    move |source| WorkloadError::Answer {
        socket: socket.into(),
        source,
    }
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
        _ => invalid(socket)(InvalidIdentity::Status(Box::new(status))),
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
    first.ok_or_else(|| invalid(socket)(InvalidIdentity::Ended))
}
