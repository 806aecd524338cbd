//! The server's gRPC API: one thin module per service, and one table that says who may call what.
//!
//! Requests become domain types here, whole or not at all. The index answers reads, the store takes writes, the
//! authority signs. A handler that wrote waits until the index shows the write before it answers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use countersign_ca::authority::Authority;
use countersign_ca::upstream::UpstreamAuthority;
use countersign_daemon::logs::Levels;
use countersign_daemon::metrics::CallMetrics;
use countersign_identity::{SpiffeId, TrustDomain};
use countersign_proto::grpc::health::v1::health_server::HealthServer;
use countersign_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use countersign_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use countersign_proto::spire::api::server::debug::v1::debug_server::DebugServer;
use countersign_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use countersign_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use countersign_proto::spire::api::server::logger::v1::logger_server::LoggerServer;
use countersign_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use countersign_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use countersign_store::Store;
use countersign_transport::connection::network;
use countersign_transport::{SharedClock, grpc};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Request;
use tonic::service::Routes;

use crate::config::RateLimits;
use crate::federation::Refresher;
use crate::index::Index;
use crate::limits::{self, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES};
use crate::metrics::CALLS;
use crate::node_attestor::Attestors;
use caller::Caller;
use rate_limit::RateLimit;
use status::ApiError;

mod access;
mod agent;
mod audit;
mod bundle;
mod caller;
mod debug;
mod entry;
mod filter;
mod health;
mod id;
mod local_authority;
mod logger;
mod paging;
mod rate_limit;
mod status;
mod svid;
mod trust_domain;

/// AttestAgent calls per second and client.
const ATTESTATIONS: u32 = 1;
/// Signatures per second and client, those of certificates and those of tokens each.
const SIGNATURES: u32 = 500;
/// JWT keys of downstream servers that are published, per second and client.
const KEY_PUBLICATIONS: u32 = 500;
/// PostStatus calls per second and client.
const STATUS_POSTS: u32 = 10;

/// What the API works with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The server's trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Takes the writes.
    pub(crate) store: Store,
    /// Answers the reads.
    pub(crate) index: Index,
    /// Signs.
    pub(crate) authority: Authority,
    /// The upstream authority, if this server is not a root.
    pub(crate) upstream: Option<Arc<dyn UpstreamAuthority>>,
    /// Prove nodes.
    pub(crate) attestors: Attestors,
    /// Refreshes foreign bundles on demand.
    pub(crate) refresher: Refresher,
    /// IDs that are admins without an entry.
    pub(crate) admin_ids: HashSet<SpiffeId>,
    /// Whether each node agent's ID is also one of its selectors.
    pub(crate) agent_id_selector: bool,
    /// Whether each call leaves a line in the log.
    pub(crate) audit_log: bool,
    /// Which limits are on.
    pub(crate) rate_limits: RateLimits,
    /// The level of this process's logs.
    pub(crate) levels: Levels,
    /// The server's own SVID, leaf first, as it is renewed.
    pub(crate) server_svid: watch::Receiver<Arc<[CertificateDer<'static>]>>,
    /// Tells the time.
    pub(crate) clock: SharedClock,
}

/// The API.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Context>);

/// What the handlers share.
#[derive(Debug)]
struct Context {
    parts: Parts,
    attestations: RateLimit,
    attesting: agent::Attesting,
    signatures: RateLimit,
    jwt_signatures: RateLimit,
    key_publications: RateLimit,
    status_posts: RateLimit,
    audit: Arc<audit::Audit>,
    syncs: entry::Syncs,
}

impl Api {
    /// The API over these parts.
    #[must_use]
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(Context {
            parts,
            attestations: RateLimit::new(ATTESTATIONS),
            attesting: agent::Attesting::default(),
            signatures: RateLimit::new(SIGNATURES),
            jwt_signatures: RateLimit::new(SIGNATURES),
            key_publications: RateLimit::new(KEY_PUBLICATIONS),
            status_posts: RateLimit::new(STATUS_POSTS),
            audit: Arc::new(audit::Audit::new()),
            syncs: entry::Syncs::default(),
        }))
    }

    /// What is served over the network. Each request must carry its `Arc<Connection>`.
    pub(crate) fn network(&self) -> Router {
        self.guarded(self.services())
    }

    /// What is served on the server's own socket: the same, and what concerns this process alone.
    pub(crate) fn local(&self) -> Router {
        let context = || Arc::clone(&self.0);
        let services = self
            .services()
            .add_service(HealthServer::new(health::HealthService(context())))
            .add_service(DebugServer::new(debug::DebugService::new(context())))
            .add_service(LoggerServer::new(logger::LoggerService(context())));
        self.guarded(services)
    }

    fn services(&self) -> Routes {
        let context = || Arc::clone(&self.0);
        Routes::new(
            AgentServer::new(agent::AgentService(context()))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            EntryServer::new(entry::EntryService(context()))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            SvidServer::new(svid::SvidService(context()))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            BundleServer::new(bundle::BundleService(context()))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            TrustDomainServer::new(trust_domain::TrustDomainService(context()))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(LocalAuthorityServer::new(
            local_authority::LocalAuthorityService(context()),
        ))
    }

    /// Puts the layers around the services: the guard innermost, so that refused calls are counted and audited too.
    fn guarded(&self, routes: Routes) -> Router {
        let guard = from_fn_with_state(Arc::clone(&self.0), access::guard);
        let counted = CallMetrics::new(CALLS, access::TABLE.iter().map(|(path, _)| *path));
        let router = routes.prepare().into_axum_router().route_layer(guard);
        let router = router.layer(counted);
        if !self.0.parts.audit_log {
            return router;
        }
        router.layer(from_fn_with_state(Arc::clone(&self.0.audit), audit::layer))
    }
}

impl Context {
    /// The caller, as the guard found it.
    fn caller<T>(request: &Request<T>) -> Result<Caller, ApiError> {
        let caller = request.extensions().get::<Caller>();
        caller.cloned().ok_or_else(|| {
            ApiError::plain(tonic::Code::Internal, "the request did not pass the guard")
        })
    }

    /// The node agent that calls.
    fn agent<T>(request: &Request<T>) -> Result<SpiffeId, ApiError> {
        match Self::caller(request)? {
            Caller::Agent(id) => Ok(id),
            _ => Err(ApiError::plain(
                tonic::Code::Internal,
                "the caller is no node agent",
            )),
        }
    }

    /// Takes tokens for the calling address, or for its half of an IPv6 network. Callers on the local socket are not
    /// limited.
    async fn limit<T>(
        limit: &RateLimit,
        request: &Request<T>,
        tokens: usize,
    ) -> Result<(), ApiError> {
        let timeout = grpc::timeout(request.metadata().as_ref());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match client_address(request) {
            Some(client) => limit.take(network(client), tokens, deadline).await,
            None => Ok(()),
        }
    }
}

fn client_address<T>(request: &Request<T>) -> Option<IpAddr> {
    let connection = request
        .extensions()
        .get::<Arc<countersign_transport::Connection>>()?;
    Some(connection.tcp_address()?.ip().to_canonical())
}

/// Handles the items of a batch one after the other, if there are not too many.
async fn batch<I, R, F>(items: Vec<I>, handle: impl Fn(I) -> F) -> Result<Vec<R>, ApiError>
where
    F: Future<Output = R>,
{
    check_batch(items.len())?;
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        results.push(handle(item).await);
    }
    Ok(results)
}

/// Refuses a batch of more items than [`limits::MAX_BATCH_ITEMS`].
fn check_batch(items: usize) -> Result<(), ApiError> {
    if items > limits::MAX_BATCH_ITEMS {
        let limit = limits::MAX_BATCH_ITEMS;
        let message = format!("the batch has {items} items, and may have {limit} at most");
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

/// A number for the wire, capped at its largest.
fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
