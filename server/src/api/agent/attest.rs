//! One attestation: the agent's proof, the attestor's questions, and the agent's SVID at the end.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::node::Credential;
use countersign_identity::{Node, Selector};
use countersign_limits::KeyedSemaphore;
use countersign_proto::spire::api::server::agent::v1 as wire;
use countersign_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use countersign_proto::spire::api::server::agent::v1::attest_agent_response as answer;
use countersign_proto::spire::api::types;
use countersign_store::NodeError;
use countersign_transport::connection::network;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::super::Context;
use super::super::audit::Note;
use super::super::status::ApiError;
use super::super::svid;
use crate::limits;
use crate::metrics::ATTESTATIONS;
use crate::node_attestor::{AttestError, Attested, Conversation};

/// One attestation, counted at its end, whatever that is.
struct Counted {
    attestor: &'static str,
    result: &'static str,
}

impl Counted {
    const fn failed(attestor: &'static str) -> Self {
        let result = "failed";
        Self { attestor, result }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::counter!(ATTESTATIONS.name, "attestor" => self.attestor, "result" => self.result)
            .increment(1);
    }
}

type Outgoing = Result<wire::AttestAgentResponse, Status>;

/// The two directions of the conversation with the agent.
struct AgentStream {
    incoming: Streaming<wire::AttestAgentRequest>,
    outgoing: mpsc::Sender<Outgoing>,
    caller: Origin,
}

/// What is known of the agent before its first message.
pub(super) struct Origin {
    /// The address it calls from, over the network.
    pub(super) address: Option<IpAddr>,
    /// Its call in the audit log.
    pub(super) note: Note,
}

/// Limits concurrent attestations, in all and per address: each may hold a large message while its agent is silent.
pub(in crate::api) struct Attesting {
    all: Semaphore,
    each: KeyedSemaphore<IpAddr>,
}

impl Default for Attesting {
    fn default() -> Self {
        Self {
            all: Semaphore::new(limits::MAX_ATTESTATIONS),
            each: KeyedSemaphore::new(limits::MAX_ATTESTATIONS_PER_NETWORK),
        }
    }
}

impl fmt::Debug for Attesting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attesting").finish_non_exhaustive()
    }
}

impl Attesting {
    /// Waits for a permit; nothing is read from the agent before it has one.
    async fn enter(&self, address: Option<IpAddr>) -> impl Sized + use<'_> {
        let own = match address {
            Some(address) => Some(self.each.acquire(network(address)).await),
            None => None,
        };
        (own, self.all.acquire().await)
    }
}

/// Attests the agent at the other end, in a task that ends when the stream does, and at the latest after
/// [`limits::ATTESTATION_TIME`].
pub(super) fn start(
    context: Arc<Context>,
    incoming: Streaming<wire::AttestAgentRequest>,
    caller: Origin,
) -> ReceiverStream<Outgoing> {
    let (outgoing, answers) = mpsc::channel(1);
    let mut stream = AgentStream {
        incoming,
        outgoing: outgoing.clone(),
        caller,
    };
    tokio::spawn(async move {
        let attested = async {
            let in_turn = async {
                let _place = context.attesting.enter(stream.caller.address).await;
                attest(&context, &mut stream).await
            };
            match tokio::time::timeout(limits::ATTESTATION_TIME, in_turn).await {
                Ok(result) => result,
                Err(_) => Err(Status::deadline_exceeded(format!(
                    "the attestation took longer than {} seconds",
                    limits::ATTESTATION_TIME.as_secs()
                ))),
            }
        };
        tokio::select! {
            result = attested => {
                let answer = result.map(|result| wire::AttestAgentResponse {
                    step: Some(answer::Step::Result(result)),
                });
                // The agent may have disconnected.
                let _ = outgoing.send(answer).await;
            }
            () = outgoing.closed() => {}
        }
    });
    ReceiverStream::new(answers)
}

async fn attest(context: &Context, stream: &mut AgentStream) -> Result<answer::Result, Status> {
    let parts = &context.parts;
    let Proof { kind, payload, csr } = proof(stream.next().await?)?;
    let attestor = parts.attestors.by_name(&kind).ok_or_else(|| {
        ApiError::new(
            Code::FailedPrecondition,
            "error getting node attestor",
            format_args!("could not find node attestor type \"{kind}\""),
        )
    })?;
    let mut counted = Counted::failed(attestor.name());
    let attested = attestor
        .attest(payload, stream)
        .await
        .map_err(attest_error)?;
    let Attested {
        id,
        mut selectors,
        can_reattest,
    } = attested;
    if parts.agent_id_selector {
        let own = Selector::new("spiffe_id", id.as_str()).ok();
        selectors = selectors.iter().cloned().chain(own).collect();
    }
    if !id.is_agent() || !id.is_member_of(&parts.trust_domain) {
        let message = format!("the node attestor gave out the ID \"{id}\", which is no agent's");
        return Err(ApiError::plain(Code::Internal, message).into());
    }
    stream.caller.note.about(&id);
    if !id.path().starts_with(&format!("/spire/agent/{kind}/")) {
        tracing::warn!(agent_id = %id, "The ID is not among those of its node attestor: look at its agent_path_template");
    }
    if parts
        .index
        .node(&id)
        .is_some_and(|node| node.value.is_banned())
    {
        return Err(banned().into());
    }
    let issued = parts
        .authority
        .sign_agent(&id, csr)
        .await
        .map_err(|e| svid::sign_error("failed to sign X509 SVID", &e))?;
    let node = Node {
        id,
        attestation_type: kind,
        current: Some(Credential {
            serial: issued.serial.clone(),
            expires_at: issued.expires_at,
        }),
        pending: None,
        can_reattest,
        selectors,
        agent_version: String::new(),
    };
    let attested = parts
        .store
        .node_attested(&node)
        .await
        .map_err(|error| match error {
            NodeError::Banned => banned(),
            NodeError::Store(error) => {
                ApiError::store("failed to store the attested agent", &error)
            }
            NodeError::Missing => {
                ApiError::plain(Code::Internal, "failed to store the attested agent")
            }
        })?;
    parts
        .index
        .visible(attested)
        .await
        .map_err(ApiError::from)?;
    tracing::info!(
        agent_id = %node.id,
        node_attestor = %node.attestation_type,
        expires_at = %issued.expires_at,
        "Agent attested"
    );
    counted.result = "ok";
    Ok(answer::Result {
        svid: Some((&issued).into()),
        reattestable: can_reattest,
    })
}

/// The first message of an attestation.
struct Proof {
    kind: String,
    payload: Bytes,
    csr: Bytes,
}

fn proof(step: Step) -> Result<Proof, ApiError> {
    let malformed = |what: &str| ApiError::new(Code::InvalidArgument, "malformed param", what);
    let Step::Params(Params { data, params }) = step else {
        return Err(malformed("missing params"));
    };
    let types::AttestationData {
        r#type: kind,
        payload,
    } = data.ok_or_else(|| malformed("missing attestation data"))?;
    let wire::AgentX509svidParams { csr } =
        params.ok_or_else(|| malformed("missing X509-SVID parameters"))?;
    if csr.is_empty() {
        return Err(malformed("missing CSR"));
    }
    svid::check_csr(&csr)?;
    if kind.is_empty() {
        return Err(malformed("missing attestation data type"));
    }
    if kind.len() > limits::MAX_ATTESTATION_TYPE_BYTES {
        let limit = limits::MAX_ATTESTATION_TYPE_BYTES;
        return Err(malformed(&format!(
            "attestation data type is longer than {limit} bytes"
        )));
    }
    if payload.is_empty() {
        return Err(malformed("missing attestation data payload"));
    }
    if payload.len() > limits::MAX_ATTESTATION_PAYLOAD_BYTES {
        let limit = limits::MAX_ATTESTATION_PAYLOAD_BYTES;
        return Err(malformed(&format!(
            "attestation data payload is larger than {limit} bytes"
        )));
    }
    Ok(Proof { kind, payload, csr })
}

fn banned() -> ApiError {
    ApiError::new(
        Code::PermissionDenied,
        "failed to attest",
        "agent is banned",
    )
}

fn attest_error(error: AttestError) -> ApiError {
    match error {
        AttestError::Invalid(message) => ApiError::invalid(message),
        AttestError::Denied(message) => ApiError::plain(Code::PermissionDenied, message),
        AttestError::Broken(message) => ApiError::invalid(message),
        AttestError::Unavailable(message) => ApiError::plain(Code::Unavailable, message),
        AttestError::Internal(message) => {
            tracing::error!(error = message, "Attestation failed");
            ApiError::plain(Code::Internal, message)
        }
    }
}

impl AgentStream {
    async fn next(&mut self) -> Result<Step, Status> {
        let message = self.incoming.message().await?;
        let step = message.and_then(|wire::AttestAgentRequest { step }| step);
        step.ok_or_else(|| {
            ApiError::new(Code::InvalidArgument, "malformed param", "missing params").into()
        })
    }
}

impl Conversation for AgentStream {
    fn challenge(&mut self, challenge: Bytes) -> BoxFuture<'_, Result<Bytes, AttestError>> {
        async move {
            let gone = || AttestError::Broken("the agent went away".into());
            let question = wire::AttestAgentResponse {
                step: Some(answer::Step::Challenge(challenge)),
            };
            self.outgoing.send(Ok(question)).await.map_err(|_| gone())?;
            match self.next().await {
                Ok(Step::ChallengeResponse(response))
                    if response.len() <= limits::MAX_ATTESTATION_PAYLOAD_BYTES =>
                {
                    Ok(response)
                }
                Ok(Step::ChallengeResponse(_)) => Err(AttestError::Invalid(format!(
                    "challenge response is larger than {} bytes",
                    limits::MAX_ATTESTATION_PAYLOAD_BYTES
                ))),
                Ok(Step::Params(_)) => {
                    Err(AttestError::Invalid("expected a challenge response".into()))
                }
                Err(_) => Err(gone()),
            }
        }
        .boxed()
    }

    fn client(&self) -> Option<IpAddr> {
        self.caller.address
    }
}
