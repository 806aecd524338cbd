//! Proving the node to a server that it has never seen (wire contract, C).
//!
//! Called at the start, if there is no usable SVID on disk, and instead of renewing where the server says that this node
//! may attest again. A join token is spent by the first answer, so the caller writes what comes back to disk before
//! anything else.

pub(crate) mod download;
pub(crate) mod proof;
pub(crate) mod token;
pub(crate) mod trust;
pub(crate) mod x509pop;

use std::time::Duration;

use countersign_daemon::metrics::result_label;
use countersign_daemon::trace::span;
use countersign_identity::csr::Csr;
use countersign_identity::{Bundle, KeyType, PrivateKey, TrustDomain};
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, attest_agent_request,
    attest_agent_response,
};
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::types;
use countersign_transport::backoff::Backoff;
use countersign_transport::dial::Cause;
use countersign_transport::error::Chain;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tracing::Instrument as _;

pub(crate) use download::BundleUrl;
pub(crate) use proof::{NoProof, NodeAttestor, Proof};
pub(crate) use token::{JoinToken, JoinTokenAttestor, JoinTokenSource};
pub use trust::BundleFormat;
pub(crate) use trust::{Rebootstrap, Trust, TrustError, TrustSource};
pub(crate) use x509pop::X509PopAttestor;

use crate::client::{CallError, ServerChannel, ServerClient, failed};
use crate::metrics::{NODE_ATTESTATION_SECONDS, NODE_ATTESTATIONS};
use crate::storage::NodeIdentity;
use crate::{limits, svid};

const ATTEST: &str = "AttestAgent";
const GET_BUNDLE: &str = "GetBundle";

/// How long attestation is tried before the node agent gives up (wire contract, C.7).
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(60);

/// How long a node agent goes on trying to attest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryLimit {
    /// For [`RETRY_FOR`].
    Short,
    /// For a day (wire contract, C.7): trust may come back by itself.
    Rebootstrap,
    /// For as long as there is something to serve meanwhile.
    Unlimited,
}

impl RetryLimit {
    fn ends(self) -> Option<Instant> {
        let span = match self {
            Self::Short => RETRY_FOR,
            Self::Rebootstrap => Duration::from_secs(24 * 60 * 60),
            Self::Unlimited => return None,
        };
        Some(Instant::now() + span)
    }
}

/// The attestation failed for good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    /// There is nothing to show to the server.
    #[error("could not attest this node")]
    NoProof(#[from] NoProof),
    /// The server refused, or could not be reached in time.
    #[error("could not attest this node: {}{}", Chain(error), advice(error, kind))]
    Call {
        /// The last failure.
        error: CallError,
        /// How it was tried.
        kind: &'static str,
    },
}

impl AttestError {
    /// What the server said or did, if it came to that.
    ///
    /// # Errors
    /// It did not come to that.
    pub(crate) fn into_call(self) -> Result<CallError, NoProof> {
        match self {
            Self::NoProof(reason) => Err(reason),
            Self::Call { error, .. } => Ok(error),
        }
    }
}

fn advice(error: &CallError, kind: &str) -> String {
    let by_token = kind == "join_token";
    let advice = match (error.code(), error.cause()) {
        (Some(Code::InvalidArgument), _) if by_token => {
            "a join token is good for one attestation, and for a limited time: make a new one with \
             `countersign-server token generate` and start again with -joinToken"
        }
        (Some(Code::PermissionDenied), _) if by_token => {
            "the server refuses this node: if it was banned, `countersign-server agent evict` lets it attest again, with a \
             new join token"
        }
        (Some(Code::PermissionDenied | Code::InvalidArgument | Code::Internal), _) => {
            "check that the server's node attestor trusts the authority of this node's certificate, that the certificate is \
             valid and may make digital signatures, and that the node is not banned"
        }
        (Some(Code::FailedPrecondition), _) => {
            return format!(
                ": the server has no node attestor of this kind: configure NodeAttestor \"{kind}\" there"
            );
        }
        (_, Some(Cause::UnknownAuthority)) => {
            "the trust bundle is not that of this server: get the right one with `countersign-server bundle show`, put it \
             where trust_bundle_path says, and remove the agent-state.json of an earlier server if there is one in data_dir"
        }
        (_, Some(cause)) => cause.advice(),
        _ => return String::new(),
    };
    format!(": {advice}")
}

/// Whether another try can change anything. A wrong bundle or a spent token stays what it is.
fn is_final(error: &CallError) -> bool {
    let refused = matches!(
        error.code(),
        Some(
            Code::PermissionDenied
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::Unimplemented
                | Code::Unauthenticated
        )
    );
    refused
        || matches!(
            error.cause(),
            Some(Cause::UnknownAuthority | Cause::WrongId)
        )
}

/// What a successful attestation brings.
#[derive(Debug)]
pub(crate) struct Attested {
    /// The node's identity.
    pub(crate) identity: NodeIdentity,
    /// The trust bundle as the server has it.
    pub(crate) bundle: Bundle,
}

/// Attests. Passing faults are tried again with growing waits, for as long as `retry_limit` says, each with a line in the
/// log.
///
/// # Errors
/// There is nothing to show; the server refused, or could not be reached in time.
pub(crate) async fn attest(
    client: &mut ServerClient,
    attestor: &dyn NodeAttestor,
    retry_limit: RetryLimit,
) -> Result<Attested, AttestError> {
    let mut backoff = Backoff::new(Duration::from_secs(5), RETRY_FOR).factor(1.5);
    let give_up = retry_limit.ends();
    loop {
        let error = match attest_once(client, attestor).await {
            Err(AttestError::Call { error, .. }) if !is_final(&error) => error,
            ended => return ended,
        };
        let wait = backoff.next_wait();
        if give_up.is_some_and(|end| Instant::now() + wait > end) {
            let kind = attestor.kind();
            return Err(AttestError::Call { error, kind });
        }
        tracing::warn!(
            error = %Chain(&error),
            advice = error.advice(),
            retry_in_seconds = wait.as_secs(),
            "Could not attest this node yet"
        );
        tokio::time::sleep(wait).await;
    }
}

/// Attests, or fails at the first fault.
///
/// # Errors
/// As [`attest`].
pub(crate) async fn attest_once(
    client: &mut ServerClient,
    attestor: &dyn NodeAttestor,
) -> Result<Attested, AttestError> {
    let span = span!("attest node", attestor = attestor.kind());
    attest_within(client, attestor).instrument(span).await
}

async fn attest_within(
    client: &mut ServerClient,
    attestor: &dyn NodeAttestor,
) -> Result<Attested, AttestError> {
    let unusable = |reason: String| CallError::Answer {
        method: ATTEST,
        reason,
    };
    let kind = attestor.kind();
    let failed = |error| AttestError::Call { error, kind };
    // A few small files.
    let proof = attestor.prove()?;
    let key = PrivateKey::generate(KeyType::EcP256)
        .map_err(|e| failed(unusable(Chain(&e).to_string())))?;
    let csr = Csr::make(&key, None).map_err(|e| failed(unusable(Chain(&e).to_string())))?;
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: kind.to_owned(),
            payload: proof.payload(),
        }),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let trust_domain = client.trust_domain().clone();
    // The server is asked for its bundle on the same connection, which it must not close in between.
    let began = Instant::now();
    let attested = client
        .attest(ATTEST, |channel| async move {
            let result = exchange(channel.clone(), params, &*proof).await?;
            let svid =
                svid::from_server(result.svid, key).map_err(|e| unusable(Chain(&e).to_string()))?;
            if !svid.id().is_member_of(&trust_domain) || !svid.id().is_agent() {
                return Err(unusable(format!(
                    "{} is not the ID of a node agent of {trust_domain}",
                    svid.id()
                )));
            }
            let identity = NodeIdentity {
                svid,
                reattestable: result.reattestable,
            };
            let bundle = get_bundle(channel, &trust_domain).await?;
            Ok(Attested { identity, bundle })
        })
        .await;
    let result = result_label(&attested);
    ::metrics::counter!(NODE_ATTESTATIONS.name, "attestor" => kind, "result" => result)
        .increment(1);
    if attested.is_ok() {
        ::metrics::histogram!(NODE_ATTESTATION_SECONDS.name, "attestor" => kind)
            .record(began.elapsed());
    }
    attested.map_err(failed)
}

async fn exchange(
    channel: ServerChannel,
    params: attest_agent_request::Params,
    proof: &dyn Proof,
) -> Result<attest_agent_response::Result, CallError> {
    let unusable = |reason: String| CallError::Answer {
        method: ATTEST,
        reason,
    };
    let (requests, outgoing) = mpsc::channel(1);
    let send = async |step| {
        let request = AttestAgentRequest { step: Some(step) };
        requests
            .send(request)
            .await
            .map_err(|_| unusable("the stream ended early".to_owned()))
    };
    send(attest_agent_request::Step::Params(params)).await?;
    let mut answers = AgentClient::new(channel)
        .max_decoding_message_size(limits::SERVER_MESSAGE_BYTES)
        .attest_agent(ReceiverStream::new(outgoing))
        .await
        .map_err(failed(ATTEST))?
        .into_inner();
    for _ in 0..=limits::CHALLENGES {
        match answers.message().await.map_err(failed(ATTEST))? {
            Some(AttestAgentResponse {
                step: Some(attest_agent_response::Step::Result(result)),
            }) => return Ok(result),
            Some(AttestAgentResponse {
                step: Some(attest_agent_response::Step::Challenge(challenge)),
            }) => {
                let answer = proof
                    .answer(&challenge)
                    .map_err(|e| unusable(Chain(&e).to_string()))?;
                send(attest_agent_request::Step::ChallengeResponse(answer)).await?;
            }
            _ => return Err(unusable("the stream ended without a result".to_owned())),
        }
    }
    Err(unusable(format!(
        "more than {} challenges",
        limits::CHALLENGES
    )))
}

/// Fetches the server's own bundle.
pub(crate) async fn get_bundle(
    channel: ServerChannel,
    trust_domain: &TrustDomain,
) -> Result<Bundle, CallError> {
    let unusable = |reason: String| CallError::Answer {
        method: GET_BUNDLE,
        reason,
    };
    let bundle = BundleClient::new(channel)
        .max_decoding_message_size(limits::SERVER_MESSAGE_BYTES)
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .map_err(failed(GET_BUNDLE))?
        .into_inner();
    let bundle = Bundle::try_from(bundle).map_err(|e| unusable(Chain(&e).to_string()))?;
    if bundle.trust_domain != *trust_domain {
        return Err(unusable(format!(
            "the bundle is that of {}, and not of {trust_domain}",
            bundle.trust_domain
        )));
    }
    if bundle.x509_authorities.is_empty() {
        return Err(unusable("the bundle has no X.509 authorities".to_owned()));
    }
    Ok(bundle)
}
