//! `UpstreamAuthority "spire"`: an upstream server of the same trust domain signs this server's authority.
//!
//! Each connection presents the X.509-SVID that the local node agent currently has for this server, and is closed when a
//! quarter of that SVID's lifetime is left. The peer must have the server ID of the trust domain (wire contract, B.5). The
//! upstream bundle is polled every few seconds and becomes this server's own (decision 0013).

mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::JwtAuthority;
use countersign_identity::tls::{ALPN_H2, ExpectedPeer, KeyExchange, TlsContext, TlsVersions};
use countersign_identity::{Bundle, TrustDomain, UnixTime};
use countersign_proto::convert::bundle::{InvalidBundle, InvalidJwtAuthority};
use countersign_proto::spire::api::server::bundle::v1 as bundle_wire;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::server::svid::v1 as svid_wire;
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::types;
use countersign_transport::SharedClock;
use countersign_transport::backoff::{Backoff, jittered};
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::{Cause, DialError, TlsConnector};
use countersign_transport::error::{BoxError, Chain};
use futures::future::{BoxFuture, FutureExt as _};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

pub use workload::{InvalidIdentity, WorkloadError};

use super::{BundleUpdates, Minted, Published, UpstreamAuthority, UpstreamBundle, UpstreamError};
use crate::limits;

const NAME: &str = "spire";
/// How often the upstream bundle is fetched.
const POLL: Duration = Duration::from_secs(5);
/// The maximum backoff between fetches after failures.
const POLL_AT_MOST: Duration = Duration::from_secs(60);
/// How long after a key was published the upstream server may still return an older bundle: SPIRE caches its answer for a
/// second.
const STALE: Duration = Duration::from_secs(2);

/// Where the upstream server is, and where this server gets its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpireSettings {
    /// `server_address` and `server_port`, as `host:port`.
    pub target: String,
    /// `workload_api_socket`.
    pub workload_api: PathBuf,
    /// The key exchanges with that server.
    pub key_exchange: KeyExchange,
}

/// Why a call to the upstream server failed.
#[derive(Debug, thiserror::Error)]
pub enum SpireError {
    /// This server has no identity to call with.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// There is no connection.
    #[error(
        "cannot reach the upstream server at {target}: {}{}",
        explain(why),
        advice(why)
    )]
    Dial {
        /// Where it should be.
        target: String,
        /// Why not. Part of the message together with advice, so it is no source.
        why: tonic::transport::Error,
    },
    /// rustls refused this server's X.509-SVID.
    #[error("this server's X.509-SVID can't be used for TLS")]
    Tls(#[from] rustls::Error),
    /// The upstream server refused, or the connection broke.
    #[error("{method} failed: {}", describe(status))]
    Status {
        /// The method.
        method: &'static str,
        /// What came back.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{method}: the upstream server at {target} did not answer within {} s", limits::UPSTREAM_CALL.as_secs())]
    TimedOut {
        /// The method.
        method: &'static str,
        /// Where it is.
        target: String,
    },
    /// The answer can't be used.
    #[error("{method}: the answer of the upstream server is not usable")]
    Answer {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        source: InvalidAnswer,
    },
}

/// Why an answer of the upstream server can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAnswer {
    /// It is not a bundle.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// It is the bundle of another trust domain.
    #[error("it is the bundle of {found}, not of {expected}")]
    TrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        expected: TrustDomain,
    },
    /// The bundle has no X.509 authorities: adopting it would invalidate every SVID.
    #[error("it is a bundle without X.509 authorities")]
    Empty,
    /// It has too many JWT keys.
    #[error("more than {} keys", limits::MAX_UPSTREAM_AUTHORITIES)]
    TooManyKeys,
    /// A JWT key can't be used.
    #[error(transparent)]
    JwtKey(#[from] InvalidJwtAuthority),
}

impl SpireError {
    /// Whether the connection ended during the call: the upstream server closes connections every few minutes.
    fn is_broken_connection(&self) -> bool {
        // tonic gives a source to a status that it made itself; one that came over the wire has none.
        matches!(self, Self::Status { status, .. } if std::error::Error::source(status).is_some())
    }
}

fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    match DialError::of(error) {
        Some(dial) => Chain(dial).to_string(),
        None => Chain(error).to_string(),
    }
}

fn advice(error: &(dyn std::error::Error + 'static)) -> String {
    Cause::of(error).map_or_else(String::new, |cause| format!(". {}", cause.advice()))
}

fn describe(status: &Status) -> String {
    match Cause::of(status) {
        Some(_) => explain(status),
        None => format!("{} ({:?})", status.message(), status.code()),
    }
}

/// The upstream server.
#[derive(Debug)]
pub struct Spire {
    settings: SpireSettings,
    trust_domain: TrustDomain,
    clock: SharedClock,
    connection: Mutex<Option<Connection>>,
    /// Held while the bundle is fetched, so that an older answer never follows a newer one.
    fetching: Mutex<Option<JustPublished>>,
    bundle: watch::Sender<Option<Arc<UpstreamBundle>>>,
}

#[derive(Clone, Debug)]
struct Connection {
    channel: Channel,
    renew_at: UnixTime,
}

/// The JWT keys as the upstream server returned them when one was published.
#[derive(Debug)]
struct JustPublished {
    at: Instant,
    keys: Vec<JwtAuthority>,
}

impl Spire {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(settings: SpireSettings, trust_domain: TrustDomain, clock: SharedClock) -> Self {
        Self {
            settings,
            trust_domain,
            clock,
            connection: Mutex::new(None),
            fetching: Mutex::new(None),
            bundle: watch::Sender::new(None),
        }
    }

    async fn mint(&self, csr: Vec<u8>, ttl: Duration) -> Result<Minted, SpireError> {
        const METHOD: &str = "NewDownstreamX509CA";
        let request = svid_wire::NewDownstreamX509caRequest {
            csr: csr.into(),
            preferred_ttl: i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let response = self
            .call(METHOD, |channel| {
                let request = request.clone();
                async move {
                    let mut client = SvidClient::new(channel)
                        .max_decoding_message_size(limits::MAX_UPSTREAM_MESSAGE_BYTES);
                    client.new_downstream_x509ca(request).await
                }
            })
            .await?;
        let chain = response
            .ca_cert_chain
            .into_iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        // The answer has the roots too, but not which of them are tainted.
        let roots = self.fetch_bundle().await?.x509.clone();
        Ok(Minted { chain, roots })
    }

    async fn publish(&self, key: &JwtAuthority) -> Result<Vec<JwtAuthority>, SpireError> {
        const METHOD: &str = "PublishJWTAuthority";
        let mut published = self.fetching.lock().await;
        let request = bundle_wire::PublishJwtAuthorityRequest {
            jwt_authority: Some(key.into()),
        };
        let response = self
            .call(METHOD, |channel| {
                let request = request.clone();
                async move { bundle_client(channel).publish_jwt_authority(request).await }
            })
            .await?;
        let keys = jwt_authorities(response.jwt_authorities).map_err(answer(METHOD))?;
        *published = Some(JustPublished {
            at: Instant::now(),
            keys: keys.clone(),
        });
        self.bundle.send_if_modified(|bundle| {
            let Some(known) = bundle else { return false };
            let changed = known.jwt != keys;
            Arc::make_mut(known).jwt.clone_from(&keys);
            changed
        });
        Ok(keys)
    }

    /// Fetches the upstream bundle, and notifies its followers if it has changed.
    async fn fetch_bundle(&self) -> Result<Arc<UpstreamBundle>, SpireError> {
        const METHOD: &str = "GetBundle";
        let mut published = self.fetching.lock().await;
        let response = self
            .call(METHOD, |channel| async move {
                let request = bundle_wire::GetBundleRequest::default();
                bundle_client(channel).get_bundle(request).await
            })
            .await?;
        let mut bundle = read_bundle(response, &self.trust_domain).map_err(answer(METHOD))?;
        match &*published {
            Some(just) if just.at.elapsed() < STALE => {
                add_missing(&mut bundle.jwt, &just.keys);
            }
            _ => *published = None,
        }
        let bundle = Arc::new(bundle);
        self.bundle.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&bundle);
            *present = Some(Arc::clone(&bundle));
            changed
        });
        Ok(bundle)
    }

    /// Makes a call, and retries it on a new connection if a reused one ended meanwhile. All calls here are idempotent.
    async fn call<T, F, Fut>(&self, method: &'static str, call: F) -> Result<T, SpireError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (channel, reused) = self.channel().await?;
        let mut result = self.call_on(method, call(channel)).await;
        if reused && result.as_ref().is_err_and(SpireError::is_broken_connection) {
            debug!(
                method,
                "Connection to the upstream server ended: calling again on a new one"
            );
            let (channel, _) = self.channel().await?;
            result = self.call_on(method, call(channel)).await;
        }
        result
    }

    async fn call_on<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, SpireError> {
        let result = match tokio::time::timeout(limits::UPSTREAM_CALL, call).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => SpireError::Status {
                method,
                status: Box::new(status),
            },
            Err(_) => SpireError::TimedOut {
                method,
                target: self.settings.target.clone(),
            },
        };
        // After any failure the next call opens a new connection, with the identity that is current then.
        *self.connection.lock().await = None;
        Err(result)
    }

    /// The connection, and whether it is a reused one.
    async fn channel(&self) -> Result<(Channel, bool), SpireError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = &*connection
            && self.clock.now() < open.renew_at
        {
            return Ok((open.channel.clone(), true));
        }
        let opened = self.connect().await?;
        let channel = opened.channel.clone();
        *connection = Some(opened);
        Ok((channel, false))
    }

    async fn connect(&self) -> Result<Connection, SpireError> {
        let identity = workload::identity(&self.settings.workload_api, &self.trust_domain).await?;
        let time = RustlsTime::shared(Arc::clone(&self.clock));
        let tls = TlsContext::new(identity.bundles, time).exchanging(self.settings.key_exchange);
        let config = tls.client(
            Some(&identity.svid),
            ExpectedPeer::Exactly(self.trust_domain.server_id()),
            TlsVersions::From12,
            &[ALPN_H2],
        )?;
        let target = &self.settings.target;
        let connector = TlsConnector::new(Arc::new(config), target, Arc::clone(&self.clock))
            .limit(limits::UPSTREAM_CONNECT);
        let channel = Endpoint::from_static("http://server")
            .connect_with_connector(connector)
            .await
            .map_err(|why| SpireError::Dial {
                target: target.clone(),
                why,
            })?;
        let svid = &identity.svid;
        debug!(id = %svid.id(), target, "Connected to the upstream server");
        let lifetime = svid.not_after().since(svid.not_before());
        Ok(Connection {
            channel,
            // Node agents renew at half-life or soon after.
            renew_at: svid.not_after().before(lifetime / 4),
        })
    }

    async fn poll(&self) {
        let mut backoff = Backoff::new(POLL, POLL_AT_MOST);
        loop {
            let wait = match self.fetch_bundle().await {
                Ok(_) => {
                    backoff.reset();
                    jittered(POLL, 0.1)
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    warn!(
                        error = %Chain(&error),
                        "Upstream bundle could not be fetched: trying again in {} s with the bundle known so far",
                        wait.as_secs()
                    );
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

impl UpstreamAuthority for Spire {
    fn name(&self) -> &'static str {
        NAME
    }

    fn mint_x509_ca(
        &self,
        csr: Vec<u8>,
        preferred_ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>> {
        let failed = could_not("sign this server's authority");
        async move { self.mint(csr, preferred_ttl).await.map_err(failed) }.boxed()
    }

    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>> {
        let failed = could_not("publish a JWT key");
        async move {
            let keys = self.publish(key).await.map_err(failed)?;
            Ok(Published::Upstream(keys))
        }
        .boxed()
    }

    fn bundle(&self) -> Option<BundleUpdates> {
        Some(self.bundle.subscribe())
    }

    fn follow(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            stop.run_until_cancelled(self.poll()).await;
        }
        .boxed()
    }
}

fn could_not(action: &'static str) -> impl Fn(SpireError) -> UpstreamError {
    move |error| UpstreamError {
        name: NAME,
        action,
        source: BoxError::from(error),
    }
}

fn bundle_client(channel: Channel) -> BundleClient<Channel> {
    BundleClient::new(channel).max_decoding_message_size(limits::MAX_UPSTREAM_MESSAGE_BYTES)
}

fn answer(method: &'static str) -> impl Fn(InvalidAnswer) -> SpireError {
    move |source| SpireError::Answer { method, source }
}

/// The bundle, whole or not at all.
fn read_bundle(
    bundle: types::Bundle,
    trust_domain: &TrustDomain,
) -> Result<UpstreamBundle, InvalidAnswer> {
    let bundle = Bundle::try_from(bundle)?;
    if bundle.trust_domain != *trust_domain {
        return Err(InvalidAnswer::TrustDomain {
            found: bundle.trust_domain,
            expected: trust_domain.clone(),
        });
    }
    if bundle.x509_authorities.is_empty() {
        return Err(InvalidAnswer::Empty);
    }
    Ok(UpstreamBundle {
        x509: bundle.x509_authorities,
        jwt: bundle.jwt_authorities,
    })
}

fn jwt_authorities(keys: Vec<types::JwtKey>) -> Result<Vec<JwtAuthority>, InvalidAnswer> {
    if keys.len() > limits::MAX_UPSTREAM_AUTHORITIES {
        return Err(InvalidAnswer::TooManyKeys);
    }
    Ok(keys
        .into_iter()
        .map(JwtAuthority::try_from)
        .collect::<Result<_, _>>()?)
}

fn add_missing(keys: &mut Vec<JwtAuthority>, more: &[JwtAuthority]) {
    for key in more {
        if !keys.iter().any(|present| present.key_id == key.key_id) {
            keys.push(key.clone());
        }
    }
}
