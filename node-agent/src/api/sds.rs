//! Envoy's secret discovery service, version 3 (wire contract, F.7): SVIDs and bundles as Envoy resources.
//!
//! [`secret`] resolves names to resources; [`state_of_the_world`] and [`delta`] decide when to send which. State of the
//! world behaves exactly as in SPIRE; the incremental variant, which SPIRE lacks, follows the xDS protocol.

mod delta;
mod secret;
mod state_of_the_world;

use std::pin::Pin;
use std::sync::Arc;

use countersign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use countersign_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use countersign_transport::log_limiter::LogLimiter;
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Admitted, Callers};
use super::rates::Method;
use crate::config::SdsConfig;
use crate::limits;
use crate::sync::Snapshot;

#[derive(Clone)]
pub(super) struct SecretDiscovery {
    callers: Callers,
    config: Arc<SdsConfig>,
    stop: CancellationToken,
}

impl SecretDiscovery {
    /// Serves these callers, until `stop` is cancelled.
    pub(super) fn new(callers: Callers, config: SdsConfig, stop: CancellationToken) -> Self {
        Self {
            callers,
            config: Arc::new(config),
            stop,
        }
    }
}

/// One xDS variant: the state of a stream, and its reaction to requests and to changes.
trait Conversation: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// The reason in a NACK: why the caller rejected the last response.
    fn rejection(request: &Self::Request) -> Option<&str>;

    /// Processes a request. Returns whether a response is due.
    ///
    /// # Errors
    /// It exceeds a bound: the stream ends.
    fn request(&mut self, request: Self::Request) -> Result<bool, Status>;

    /// Called when the caller's secrets may have changed. Returns whether a response is due.
    fn news(&mut self) -> bool;

    /// The due response; `None` if it would be empty.
    ///
    /// # Errors
    /// The status with which the stream ends.
    fn answer(
        &mut self,
        snapshot: &Snapshot,
        admitted: &Admitted,
    ) -> Result<Option<Self::Response>, Status>;
}

type SecretStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The response stream. It is polled, and so reads requests and builds responses, only when the connection has room for
/// a response: a caller that does not read costs one stream and no memory.
fn converse<C: Conversation>(
    service: &SecretDiscovery,
    requests: Streaming<C::Request>,
    admitted: Admitted,
    conversation: C,
) -> SecretStream<C::Response> {
    let state = ConversationState {
        requests,
        admitted,
        conversation,
        lines: service.callers.lines(),
        stop: service.stop.clone(),
        phase: ConversationPhase::First,
    };
    Box::pin(futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

struct ConversationState<C: Conversation> {
    requests: Streaming<C::Request>,
    admitted: Admitted,
    conversation: C,
    lines: Arc<LogLimiter>,
    stop: CancellationToken,
    phase: ConversationPhase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConversationPhase {
    First,
    /// All of the caller's SVIDs have been signed at least once: a response can be complete.
    Ready,
    Over,
}

impl<C: Conversation> ConversationState<C> {
    async fn next(&mut self) -> Option<Result<C::Response, Status>> {
        while self.phase != ConversationPhase::Over {
            match self.step().await {
                Ok(Some(response)) => return Some(Ok(response)),
                Ok(None) => {}
                Err(status) => {
                    self.phase = ConversationPhase::Over;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    async fn step(&mut self) -> Result<Option<C::Response>, Status> {
        let due = if self.phase == ConversationPhase::First && self.is_ready() {
            self.phase = ConversationPhase::Ready;
            self.conversation.news()
        } else {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    return Err(Status::unavailable("the node agent is stopping"));
                }
                () = self.admitted.subscription.changed() => {
                    if !self.is_ready() {
                        return Ok(None);
                    }
                    self.phase = ConversationPhase::Ready;
                    self.conversation.news()
                }
                request = self.requests.message() => match request? {
                    Some(request) => {
                        self.log_rejection(&request);
                        self.conversation.request(request)?
                    }
                    None => {
                        self.phase = ConversationPhase::Over;
                        return Ok(None);
                    }
                },
            }
        };
        if !due || self.phase != ConversationPhase::Ready {
            return Ok(None);
        }
        let snapshot = self.admitted.snapshot()?;
        self.conversation.answer(&snapshot, &self.admitted)
    }

    /// Logs a NACK, rate-limited so that no caller can fill the disk with log lines.
    fn log_rejection(&self, request: &C::Request) {
        if let Some(error) = C::rejection(request)
            && let Some(held_back) = self.lines.line()
        {
            let end = error.floor_char_boundary(limits::LOGGED_TEXT);
            tracing::warn!(
                error = error.get(..end),
                held_back = (held_back > 0).then_some(held_back),
                "Envoy rejected the last secrets"
            );
        }
    }

    fn is_ready(&self) -> bool {
        let selectors = self.admitted.subscription.selectors();
        self.admitted
            .snapshot()
            .is_ok_and(|snapshot| secret::all_signed(&snapshot, selectors))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretDiscovery {
    type StreamSecretsStream = SecretStream<DiscoveryResponse>;
    type DeltaSecretsStream = SecretStream<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let admitted = self.callers.admit(&request, Method::StreamSecrets).await?;
        let conversation = state_of_the_world::StateOfTheWorld::new(Arc::clone(&self.config));
        Ok(Response::new(converse(
            self,
            request.into_inner(),
            admitted,
            conversation,
        )))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let admitted = self.callers.admit(&request, Method::StreamSecrets).await?;
        let conversation = delta::Delta::new(Arc::clone(&self.config));
        Ok(Response::new(converse(
            self,
            request.into_inner(),
            admitted,
            conversation,
        )))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let admitted = self.callers.admit(&request, Method::FetchSecrets).await?;
        let request = request.into_inner();
        check_names(request.resource_names.iter())?;
        let snapshot = admitted.snapshot()?;
        let selectors = admitted.subscription.selectors();
        if !secret::all_signed(&snapshot, selectors) {
            return Err(Status::unavailable("the SVIDs are not signed yet"));
        }
        let validation = secret::validation_for(self.config.validation, request.node.as_ref());
        let secrets = secret::Secrets::new(&snapshot, selectors, &self.config.names, validation);
        let resources = secrets.requested(&request.resource_names)?;
        Ok(Response::new(DiscoveryResponse {
            version_info: String::new(),
            resources: resources.into_iter().map(|r| r.any).collect(),
            type_url: request.type_url,
            nonce: String::new(),
        }))
    }
}

/// Bounds the names that a stream holds for as long as it lasts.
///
/// # Errors
/// Too many names, or one that is too long.
fn check_names<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Status> {
    if names.len() > limits::SDS_NAMES {
        return Err(Status::resource_exhausted(format!(
            "one stream may ask for at most {} secrets: open another one",
            limits::SDS_NAMES
        )));
    }
    let longest = names.map(String::len).max().unwrap_or_default();
    if longest > limits::SDS_NAME_BYTES {
        return Err(Status::invalid_argument(format!(
            "the name of a secret or of a type is longer than {} bytes",
            limits::SDS_NAME_BYTES
        )));
    }
    Ok(())
}

/// A fresh nonce of eight hex digits.
fn nonce() -> String {
    use rand::Rng as _;
    format!("{:08x}", rand::rng().random::<u32>())
}
