//! The connection to the server: the expected server ID, the SVID that this node presents, and errors with advice.
//!
//! Every call has a deadline. Any failure drops the connection, so that the next call dials anew and a restarted server
//! is found (wire contract, B.3). A call that failed because the connection closed, as after the server's regular
//! GOAWAY, is retried once on a new one: all calls here are idempotent, except the attestation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_daemon::trace;
use countersign_identity::bundle::Bundles;
use countersign_identity::tls::{ALPN_H2, ExpectedPeer, KeyExchange, TlsContext, TlsVersions};
use countersign_identity::{Bundle, BundleSet, TrustDomain, X509Svid};
use countersign_proto::spire::api::types::PermissionDeniedDetails;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::SharedClock;
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::{Cause, DialError, TlsConnector};
use countersign_transport::error::Chain;
use prost::Message as _;
use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

mod shared_client;

use crate::limits;

pub(crate) use shared_client::{SharedClient, SharedClientError};

/// The channel of all calls. It adds the `traceparent` of the current span, if spans are exported.
pub(crate) type ServerChannel = InterceptedService<Channel, WithSpan>;

/// Adds the current span's `traceparent` to the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WithSpan;

impl Interceptor for WithSpan {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let span = trace::traceparent().and_then(|text| text.to_str().ok()?.parse().ok());
        if let Some(span) = span {
            request.metadata_mut().insert(trace::TRACEPARENT, span);
        }
        Ok(request)
    }
}

/// The current bundles against which servers are verified.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedBundles(Arc<ArcSwap<BundleSet>>);

impl TrustedBundles {
    /// Replaces the bundle of its trust domain.
    pub(crate) fn replace(&self, bundle: Arc<Bundle>) {
        let mut set = BundleSet::default();
        set.insert(bundle);
        self.0.store(Arc::new(set));
    }
}

impl Bundles for TrustedBundles {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.load().bundle(trust_domain)
    }
}

/// The identity that this side presents, and how it verifies the server.
#[derive(Clone, Debug)]
enum Credentials {
    /// First contact: no certificate, the server verified by the bundle.
    Verified,
    /// First contact without a bundle (`insecure_bootstrap`): the server's certificate is not verified.
    Insecure,
    /// The node's SVID; the server verified by the bundle.
    Node(X509Svid),
}

/// Why a call to the server failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no connection.
    #[error("cannot reach the server at {address}: {}", explain(error))]
    Dial {
        /// Where it should be.
        address: String,
        /// Why.
        error: tonic::transport::Error,
    },
    /// The client could not be set up.
    #[error("cannot prepare the connection to the server")]
    Tls(#[from] rustls::Error),
    /// The call failed, or the connection broke during it.
    #[error("{method} failed: {}", describe(status))]
    Status {
        /// The method.
        method: &'static str,
        /// What came back.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{method}: the server at {address} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// The method.
        method: &'static str,
        /// Where the server is.
        address: String,
        /// The timeout.
        limit: Duration,
    },
    /// A failure on this side.
    #[error("{doing}: {reason}")]
    Here {
        /// What it was doing.
        doing: &'static str,
        /// Why it can't.
        reason: String,
    },
    /// The response is malformed or inconsistent.
    #[error("{method}: the server's answer is not usable: {reason}")]
    Answer {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn describe(status: &Status) -> String {
    match Cause::of(status) {
        // The connection's error is more specific than tonic's status.
        Some(_) => explain(status),
        None => format!("{} ({:?})", status.message(), status.code()),
    }
}

/// The cause in TLS, TCP or HTTP/2.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    match DialError::of(error) {
        Some(dial) => Chain(dial).to_string(),
        None => Chain(error).to_string(),
    }
}

impl CallError {
    /// A call that took too long.
    const fn timed_out(method: &'static str, address: String, limit: Duration) -> Self {
        Self::TimedOut {
            method,
            address,
            limit,
        }
    }

    /// Why the connection failed, if it did.
    #[must_use]
    pub(crate) fn cause(&self) -> Option<Cause> {
        match self {
            Self::Dial { error, .. } => Cause::of(error),
            Self::Status { status, .. } => Cause::of(&**status),
            Self::Tls(_) | Self::TimedOut { .. } | Self::Answer { .. } | Self::Here { .. } => None,
        }
    }

    /// The gRPC code, if the server answered with one.
    #[must_use]
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Status { status, .. } if !is_broken(status) => Some(status.code()),
            _ => None,
        }
    }

    /// Why the server refuses this node, if it gave a reason (wire contract, C.6).
    #[must_use]
    pub(crate) fn denied(&self) -> Option<Reason> {
        match self {
            Self::Status { status, .. } if status.code() == Code::PermissionDenied => {
                denied_reason(status.details())
            }
            _ => None,
        }
    }

    /// Advice for the operator; empty if there is none.
    #[must_use]
    pub(crate) fn advice(&self) -> &'static str {
        self.cause().map_or("", Cause::advice)
    }

    fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Status { status, .. } if is_broken(status))
    }
}

/// tonic gives a source to a status that it made itself because the connection broke; one from the server has none.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn denied_reason(details: &[u8]) -> Option<Reason> {
    const TYPE: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";
    let status = tonic_types::Status::decode(details).ok()?;
    let any = status.details.iter().find(|any| any.type_url == TYPE)?;
    let details = PermissionDeniedDetails::decode(any.value.as_slice()).ok()?;
    Reason::try_from(details.reason).ok()
}

/// A client of one server address.
pub(crate) struct ServerClient {
    address: String,
    trust_domain: TrustDomain,
    tls: TlsContext,
    clock: SharedClock,
    credentials: Credentials,
    channel: Option<ServerChannel>,
    /// The identity that it presents, for a [`SharedClient`].
    shown: watch::Sender<Option<X509Svid>>,
    /// Which of the name's addresses the next connection tries first.
    turn: usize,
}

impl ServerClient {
    /// A client of the server of this trust domain at `address` (`host:port`), which it verifies by these bundles. Has
    /// no identity yet.
    #[must_use]
    pub(crate) fn new(
        address: String,
        trust_domain: TrustDomain,
        bundles: &TrustedBundles,
        clock: SharedClock,
    ) -> Self {
        let tls = TlsContext::new(
            Arc::new(bundles.clone()),
            RustlsTime::shared(Arc::clone(&clock)),
        );
        Self {
            address,
            trust_domain,
            tls,
            clock,
            credentials: Credentials::Verified,
            channel: None,
            shown: watch::Sender::default(),
            turn: 0,
        }
    }

    /// With these key exchanges.
    #[must_use]
    pub(crate) fn exchanging(self, key_exchange: KeyExchange) -> Self {
        Self {
            tls: self.tls.exchanging(key_exchange),
            ..self
        }
    }

    /// A watch on the identity that it presents.
    #[must_use]
    pub(crate) fn shown(&self) -> watch::Receiver<Option<X509Svid>> {
        self.shown.subscribe()
    }

    /// Where the server is.
    #[must_use]
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The trust domain whose server it is.
    #[must_use]
    pub(crate) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Accepts any server while this node has no identity. Only for `insecure_bootstrap`.
    pub(crate) fn trust_anyone(&mut self) {
        self.credentials = Credentials::Insecure;
        self.channel = None;
    }

    /// Presents this node's identity from now on. The old connection is dropped; the next call uses the new
    /// certificate.
    pub(crate) fn identify(&mut self, svid: X509Svid) {
        self.shown.send_replace(Some(svid.clone()));
        self.credentials = Credentials::Node(svid);
        self.channel = None;
    }

    /// Makes a call, again on a new connection if that broke.
    ///
    /// # Errors
    /// [`CallError`]; the connection is dropped.
    pub(crate) async fn call<T, Fut: Future<Output = Result<T, CallError>>>(
        &mut self,
        method: &'static str,
        call: impl Fn(ServerChannel) -> Fut,
    ) -> Result<T, CallError> {
        let reused = self.channel.is_some();
        match self.call_once(method, &call).await {
            Err(error) if reused && error.is_broken_connection() => {
                tracing::debug!(method, error = %Chain(&error), "Connection to the server ended: calling again on a new one");
                self.call_once(method, &call).await
            }
            result => result,
        }
    }

    /// Attests on a connection of its own, without a certificate. Never retried here: a join token can be used only
    /// once.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn attest<T, Fut: Future<Output = Result<T, CallError>>>(
        &mut self,
        method: &'static str,
        call: impl FnOnce(ServerChannel) -> Fut,
    ) -> Result<T, CallError> {
        let anonymous = match &self.credentials {
            Credentials::Insecure => Credentials::Insecure,
            Credentials::Verified | Credentials::Node(_) => Credentials::Verified,
        };
        let before = std::mem::replace(&mut self.credentials, anonymous);
        self.channel = None;
        let result = self.call_within(limits::ATTESTATION, method, call).await;
        self.credentials = before;
        self.channel = None;
        result
    }

    async fn call_once<T, Fut: Future<Output = Result<T, CallError>>>(
        &mut self,
        method: &'static str,
        call: impl FnOnce(ServerChannel) -> Fut,
    ) -> Result<T, CallError> {
        self.call_within(limits::SERVER_CALL, method, call).await
    }

    async fn call_within<T, Fut: Future<Output = Result<T, CallError>>>(
        &mut self,
        limit: Duration,
        method: &'static str,
        call: impl FnOnce(ServerChannel) -> Fut,
    ) -> Result<T, CallError> {
        let channel = self.connected().await?;
        let result = tokio::time::timeout(limit, call(channel))
            .await
            .unwrap_or_else(|_| Err(CallError::timed_out(method, self.address.clone(), limit)));
        if result.is_err() {
            self.channel = None;
        }
        result
    }

    /// Drops the connection: the next call opens a new one.
    fn disconnect(&mut self) {
        self.channel = None;
    }

    async fn connected(&mut self) -> Result<ServerChannel, CallError> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let connector = TlsConnector::new(
            Arc::new(self.tls_config()?),
            &self.address,
            Arc::clone(&self.clock),
        )
        .limit(limits::SERVER_CONNECT)
        .turn(self.turn);
        self.turn = self.turn.wrapping_add(1);
        let channel = Endpoint::from_static("http://server")
            .connect_with_connector(connector)
            .await
            .map_err(|error| CallError::Dial {
                address: self.address.clone(),
                error,
            })?;
        let channel = InterceptedService::new(channel, WithSpan);
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    fn tls_config(&self) -> Result<rustls::ClientConfig, rustls::Error> {
        let server = self.trust_domain.server_id();
        let (versions, alpn) = (TlsVersions::From12, &[ALPN_H2][..]);
        match &self.credentials {
            Credentials::Insecure => self.tls.insecure_client(server, versions, alpn),
            Credentials::Verified => {
                self.tls
                    .client(None, ExpectedPeer::Exactly(server), versions, alpn)
            }
            Credentials::Node(svid) => {
                self.tls
                    .client(Some(svid), ExpectedPeer::Exactly(server), versions, alpn)
            }
        }
    }
}

impl fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerClient")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Turns a status into a [`CallError`] of this method.
pub(crate) fn failed(method: &'static str) -> impl Fn(Status) -> CallError {
    move |status| CallError::Status {
        method,
        status: Box::new(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::denied;

    #[test]
    fn the_reason_of_a_refusal_is_read_from_the_typed_details() {
        for reason in [
            Reason::AgentExpired,
            Reason::AgentBanned,
            Reason::AgentMustReattest,
        ] {
            assert_eq!(failed("x")(denied(reason)).denied(), Some(reason));
        }
        assert_eq!(
            failed("x")(Status::permission_denied("no details")).denied(),
            None
        );
        let other_code = Status::with_details(
            Code::Internal,
            "",
            denied(Reason::AgentBanned).details().to_vec().into(),
        );
        assert_eq!(failed("x")(other_code).denied(), None);
    }

    #[test]
    fn a_status_of_the_server_is_no_broken_connection() {
        let error = failed("GetBundle")(Status::unavailable("busy"));
        assert!(!error.is_broken_connection());
        assert_eq!(error.code(), Some(Code::Unavailable));
        assert_eq!(error.to_string(), "GetBundle failed: busy (Unavailable)");
    }
}
