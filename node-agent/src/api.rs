//! The services on two Unix sockets. Public: the SPIFFE Workload API, Envoy's secret discovery, gRPC health and
//! reflection. Admin: delegated identities, the node agent's own state and its log level.
//!
//! A request is resolved to a caller, its selectors and a subscription; `sync::snapshot` decides what it gets.

mod admin;
mod caller;
mod concurrency;
mod health;
mod rates;
mod reflection;
mod sds;
mod stream;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use countersign_daemon::metrics::CallMetrics;
use countersign_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SERVICE_NAME as SDS, SecretDiscoveryServiceServer,
};
use countersign_proto::grpc::health::v1::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use countersign_proto::spiffe::workload::spiffe_workload_api_server::{
    SERVICE_NAME as WORKLOAD_API, SpiffeWorkloadApiServer,
};
use countersign_transport::{Connection, SharedClock, UnixCaller};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::ApiConfig;
use crate::jwt::JwtSvids;
use crate::limits;
use crate::metrics::{CALLS, METHODS};
use crate::sync::Feed;
use crate::workload_attestor::Attestors;
use caller::Callers;
use health::Health;
use workload::WorkloadApi;

/// The state shared by all services.
#[derive(Clone)]
pub struct Sources {
    /// Entries, SVIDs, bundles.
    pub feed: Feed,
    /// JWT-SVIDs.
    pub jwt_svids: JwtSvids,
    /// Who is calling.
    pub attestors: Attestors,
    /// What time it is.
    pub clock: SharedClock,
    /// Ends streams with UNAVAILABLE when it is cancelled.
    pub stop: CancellationToken,
}

/// Everything on the public socket, which is at `socket`.
pub fn public(sources: &Sources, config: &ApiConfig, socket: PathBuf) -> Router {
    let Sources {
        feed,
        jwt_svids,
        attestors,
        clock,
        stop,
    } = sources.clone();
    let callers = Callers::new(feed, attestors).limited(config.rates);
    let asks_itself = config.workload_api.then_some(socket);
    let mut routes = Routes::new(HealthServer::new(Health::new(asks_itself)));
    let mut services = vec![HEALTH];
    if config.workload_api {
        services.push(WORKLOAD_API);
        let workload = WorkloadApi::new(
            callers.clone(),
            jwt_svids,
            config.verifiers.clone(),
            clock,
            stop.clone(),
        );
        routes = routes.add_service(
            SpiffeWorkloadApiServer::new(workload)
                .max_decoding_message_size(limits::WORKLOAD_REQUEST_BYTES),
        );
    }
    if let Some(settings) = config.sds.clone() {
        services.push(SDS);
        let sds = sds::SecretDiscovery::new(callers, settings, stop);
        routes = routes.add_service(
            SecretDiscoveryServiceServer::new(sds)
                .max_decoding_message_size(limits::SDS_REQUEST_BYTES),
        );
    }
    let routes = reflection::add(routes, &services);
    concurrency::limited(routes.into_axum_router()).layer(call_metrics())
}

pub use admin::router as admin;

/// Counts the calls on a socket, except those of the node agent's own health check.
fn call_metrics() -> CallMetrics {
    CallMetrics::new(CALLS, METHODS.iter().copied()).leaving_out(|extensions| {
        let connection = extensions.get::<Arc<Connection>>();
        connection
            .and_then(|connection| connection.unix_caller())
            .is_some_and(UnixCaller::is_this_process)
    })
}

#[cfg(test)]
mod tests;
