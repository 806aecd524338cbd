//! What callers see, on two Unix sockets: the SPIFFE Workload API, Envoy's secret discovery, gRPC health and reflection on
//! the public one; identities of others, the node agent's own state and its log on the admin socket.
//!
//! A request enters here, becomes a caller, selectors, a subscription; what it gets was decided by `sync::snapshot`.

mod admin;
mod caller;
mod health;
mod place;
mod rates;
mod reflection;
pub mod sds;
mod stream;
mod workload;

use std::path::PathBuf;

use axum::Router;
use countersign_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SERVICE_NAME as SDS, SecretDiscoveryServiceServer,
};
use countersign_proto::grpc::health::v1::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use countersign_proto::spiffe::workload::spiffe_workload_api_server::{
    SERVICE_NAME as WORKLOAD_API, SpiffeWorkloadApiServer,
};
use countersign_transport::SharedClock;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::jwt::JwtSvids;
use crate::limits;
use crate::selectors::Attestors;
use crate::sync::Feed;
use caller::Callers;

pub use admin::Delegates;
pub(crate) use caller::SECURITY_HEADER;
pub use health::Health;
pub use rates::Rates;
pub use workload::{Unauthenticated, Verifiers, WorkloadApi};

/// Whether something is there for callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offered {
    /// It is.
    #[default]
    Yes,
    /// It is not; its methods are unknown.
    No,
}

/// What the configuration says about callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether the Workload API is served.
    pub workload_api: Offered,
    /// What verifiers get.
    pub verifiers: Verifiers,
    /// What Envoy is told; nothing, if it is not served.
    pub sds: Option<sds::Settings>,
    /// Who may act for others.
    pub delegates: Delegates,
    /// How often they may call.
    pub rates: Rates,
}

impl Rules {
    /// Whether there is a public socket: nothing is served there otherwise.
    #[must_use]
    pub fn public_socket(&self) -> Offered {
        match (self.workload_api, &self.sds) {
            (Offered::No, None) => Offered::No,
            _ => Offered::Yes,
        }
    }
}

/// What all services draw on.
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
pub fn public(sources: &Sources, rules: &Rules, socket: PathBuf) -> Router {
    let Sources {
        feed,
        jwt_svids,
        attestors,
        clock,
        stop,
    } = sources.clone();
    let callers = Callers::new(feed, attestors).limited(rules.rates);
    let asks_itself = (rules.workload_api == Offered::Yes).then_some(socket);
    let mut routes = Routes::new(HealthServer::new(Health::new(asks_itself)));
    let mut services = vec![HEALTH];
    if rules.workload_api == Offered::Yes {
        services.push(WORKLOAD_API);
        let workload = WorkloadApi::new(
            callers.clone(),
            jwt_svids,
            rules.verifiers.clone(),
            clock,
            stop.clone(),
        );
        routes = routes.add_service(
            SpiffeWorkloadApiServer::new(workload)
                .max_decoding_message_size(limits::WORKLOAD_REQUEST_BYTES),
        );
    }
    if let Some(settings) = rules.sds.clone() {
        services.push(SDS);
        let sds = sds::SecretDiscovery::new(callers, settings, stop);
        routes = routes.add_service(
            SecretDiscoveryServiceServer::new(sds)
                .max_decoding_message_size(limits::SDS_REQUEST_BYTES),
        );
    }
    let routes = reflection::add(routes, &services);
    place::bounded(routes.into_axum_router()).layer(crate::metrics::calls())
}

pub use admin::router as admin;

#[cfg(test)]
mod tests;
