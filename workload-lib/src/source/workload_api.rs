//! The Workload API, as the node agent speaks it. The `spiffe` crate's types end here.

use futures::{Stream, StreamExt as _};
use rustls_pki_types::CertificateDer;
use spiffe::transport::Endpoint;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use zeroize::Zeroizing;

use crate::causes;

/// One message of the Workload API, whole: what is missing in it is withdrawn.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) svids: Vec<OfferedSvid>,
    /// Trust domain names, each with its authorities.
    pub(crate) bundles: Vec<(String, Vec<CertificateDer<'static>>)>,
}

/// An SVID as it was offered, not yet checked.
pub(crate) struct OfferedSvid {
    pub(crate) id: String,
    pub(crate) hint: Option<String>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for OfferedSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfferedSvid")
            .field("id", &self.id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// What the Workload API's stream says.
#[derive(Debug)]
pub(crate) enum Said {
    /// The whole state.
    Offer(Offer),
    /// This process has no identity.
    NoIdentity(String),
    /// The message made no sense; the stream goes on.
    Malformed(String),
    /// The stream is over: the node agent is away, starting, or refuses the call.
    Over(String),
}

/// Opens the stream of SVIDs and bundles.
///
/// # Errors
/// The endpoint is unreachable, or is not an endpoint.
pub(crate) async fn open(
    endpoint: &str,
) -> Result<impl Stream<Item = Said> + Send + Unpin + use<>, String> {
    let endpoint = Endpoint::parse(endpoint)
        .map_err(|e| format!("{endpoint:?} is not a Workload API address: {e}"))?;
    let client = WorkloadApiClient::connect(endpoint)
        .await
        .map_err(|e| causes::on_one_line(&e))?;
    let stream = match client.stream_x509_contexts().await {
        Ok(stream) => stream
            .map(|item| item.map_or_else(|error| said(&error), |context| offer(&context)))
            .left_stream(),
        Err(error) => futures::stream::iter([said(&error)]).right_stream(),
    };
    Ok(stream)
}

/// Checks the form of an endpoint, without connecting.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    Endpoint::parse(endpoint)
        .map(drop)
        .map_err(|e| e.to_string())
}

fn offer(context: &X509Context) -> Said {
    let svids = context.svids().iter().map(|svid| OfferedSvid {
        id: svid.spiffe_id().to_string(),
        hint: svid.hint().map(str::to_owned),
        chain: certificates(svid.cert_chain()),
        key: Zeroizing::new(svid.private_key().as_bytes().to_vec()),
    });
    let bundles = context
        .bundle_set()
        .iter()
        .map(|(domain, bundle)| (domain.to_string(), certificates(bundle.authorities())));
    Said::Offer(Offer {
        svids: svids.collect(),
        bundles: bundles.collect(),
    })
}

fn certificates(of: &[spiffe::Certificate]) -> Vec<CertificateDer<'static>> {
    of.iter()
        .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
        .collect()
}

fn said(error: &WorkloadApiError) -> Said {
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
            Said::NoIdentity(causes::on_one_line(error))
        }
        WorkloadApiError::Transport(_)
        | WorkloadApiError::EmptyResponse
        | WorkloadApiError::Endpoint(_) => Said::Over(causes::on_one_line(error)),
        _ => Said::Malformed(causes::on_one_line(error)),
    }
}
