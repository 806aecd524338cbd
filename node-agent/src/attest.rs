//! Proving the node to a server that it has never seen (wire contract, C).
//!
//! Called once at the start, if there is no usable SVID on disk. The token is spent by the first answer, so the caller
//! writes what comes back to disk before anything else.

pub mod token;
pub mod trust;

use std::time::Duration;

use bytes::Bytes;
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
use countersign_runtime::backoff::Backoff;
use countersign_runtime::dial::Cause;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

pub use token::{InvalidToken, JoinToken};
pub use trust::{TrustError, TrustSource};

use crate::client::{CallError, ServerClient, failed};
use crate::storage::NodeIdentity;
use crate::{limits, wire};

const ATTEST: &str = "AttestAgent";
const GET_BUNDLE: &str = "GetBundle";

/// How long attestation is tried before the node agent gives up (wire contract, C.7).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The attestation failed for good.
#[derive(Debug, thiserror::Error)]
#[error("could not attest this node: {source}{}", advice(source))]
pub struct AttestError {
    /// The last failure.
    pub source: CallError,
}

fn advice(error: &CallError) -> String {
    let advice = match (error.code(), error.cause()) {
        (Some(Code::InvalidArgument), _) => {
            "a join token is good for one attestation, and for a limited time: make a new one with \
             `countersign-server token generate` and start again with -joinToken"
        }
        (Some(Code::PermissionDenied), _) => {
            "the server refuses this node: if it was banned, `countersign-server agent evict` lets it attest again, with a \
             new join token"
        }
        (Some(Code::FailedPrecondition), _) => {
            "the server has no node attestor of this kind: configure NodeAttestor \"join_token\" there"
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
pub struct Attested {
    /// The node's identity.
    pub identity: NodeIdentity,
    /// The trust bundle as the server has it.
    pub bundle: Bundle,
}

/// Attests with a join token. Passing faults are tried again with growing waits, for [`PATIENCE`] in all, each with a
/// line in the log.
///
/// # Errors
/// The server refused, or could not be reached in time.
pub async fn attest(client: &mut ServerClient, token: &JoinToken) -> Result<Attested, AttestError> {
    let mut backoff = Backoff::new(Duration::from_secs(5), PATIENCE).factor(1.5);
    let give_up = Instant::now() + PATIENCE;
    loop {
        let source = match attest_once(client, token).await {
            Ok(attested) => return Ok(attested),
            Err(error) => error,
        };
        let wait = backoff.next_wait();
        if is_final(&source) || Instant::now() + wait > give_up {
            return Err(AttestError { source });
        }
        tracing::warn!(
            error = %source,
            advice = source.advice(),
            retry_in_seconds = wait.as_secs(),
            "Could not attest this node yet"
        );
        tokio::time::sleep(wait).await;
    }
}

async fn attest_once(client: &mut ServerClient, token: &JoinToken) -> Result<Attested, CallError> {
    let unusable = |reason: String| CallError::Answer {
        method: ATTEST,
        reason,
    };
    let key = PrivateKey::generate(KeyType::EcP256).map_err(|e| unusable(e.to_string()))?;
    let csr = Csr::make(&key, None).map_err(|e| unusable(e.to_string()))?;
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: token::TYPE.to_owned(),
            payload: token.payload(),
        }),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let trust_domain = client.trust_domain().clone();
    // The server is asked for its bundle on the same connection, which it must not close in between.
    client
        .call_once(ATTEST, |channel| async move {
            let result = exchange(channel.clone(), params).await?;
            let svid = wire::svid(result.svid, key).map_err(unusable)?;
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
        .await
}

async fn exchange(
    channel: Channel,
    params: attest_agent_request::Params,
) -> Result<attest_agent_response::Result, CallError> {
    let unusable = |reason: &str| CallError::Answer {
        method: ATTEST,
        reason: reason.to_owned(),
    };
    let (requests, outgoing) = mpsc::channel(1);
    let first = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    };
    requests
        .send(first)
        .await
        .map_err(|_| unusable("the stream ended at once"))?;
    let mut answers = AgentClient::new(channel)
        .max_decoding_message_size(limits::SERVER_MESSAGE_BYTES)
        .attest_agent(ReceiverStream::new(outgoing))
        .await
        .map_err(failed(ATTEST))?
        .into_inner();
    // A join token is all the proof there is: a challenge would be for another kind of attestor.
    match answers.message().await.map_err(failed(ATTEST))? {
        Some(AttestAgentResponse {
            step: Some(attest_agent_response::Step::Result(result)),
        }) => {
            drop(requests);
            Ok(result)
        }
        Some(AttestAgentResponse {
            step: Some(attest_agent_response::Step::Challenge(_)),
        }) => Err(unusable("a join token was challenged")),
        _ => Err(unusable("the stream ended without a result")),
    }
}

/// Fetches the server's own bundle.
pub(crate) async fn get_bundle(
    channel: Channel,
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
    let bundle = Bundle::try_from(bundle).map_err(|e| unusable(e.to_string()))?;
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

/// The payload as bytes, which gRPC copies.
impl JoinToken {
    fn payload(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_str().as_bytes())
    }
}
