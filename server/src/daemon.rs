//! The running server: [`build`] opens and binds everything, [`Bound::serve`] starts the tasks and serves until it is
//! stopped.
//!
//! Everything that an operator can fix fails in [`build`], with an error that says how.

mod observe;
mod start;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use countersign_ca::authority::{Rotation, ServerSvid};
use countersign_ca::upstream::UpstreamAuthority;
use countersign_daemon::address_file::{self, Listening};
use countersign_daemon::health::{Health, State};
use countersign_daemon::operator_endpoints::BoundEndpoints;
use countersign_daemon::systemd;
use countersign_store::Store;
use countersign_transport::error::BoxError;
use countersign_transport::file::WriteError;
use countersign_transport::presented::Identities;
use countersign_transport::serve::Http;
use countersign_transport::task::TaskFault;
use countersign_transport::unix::Socket;
use countersign_transport::{ServeOptions, SharedClock, Tasks, serve_tls, serve_unix};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::federation::{CertificateFile, Follower};
use crate::index::Index;
use crate::jobs::{Pruner, sweep};
use crate::limits;

pub use start::{StartError, build};

/// Maximum age of node agents' connections, as in SPIRE, so that agents are rebalanced over the servers.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3 * 60);
/// How long running calls may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How long all tasks together may take to stop; longer than [`DRAIN`], which is part of it.
const STOP: Duration = Duration::from_secs(15);

/// Everything opened and bound; nothing serves yet.
pub struct Bound {
    tcp: TcpListener,
    tcp_address: SocketAddr,
    socket: Socket,
    store: Store,
    index: Index,
    pruner: Option<Pruner>,
    rotation: Rotation,
    upstream: Option<Arc<dyn UpstreamAuthority>>,
    svid: ServerSvid,
    follower: Follower,
    bundle_endpoint: Option<BundleEndpoint>,
    agents: Router,
    admins: Router,
    operators: BoundEndpoints,
    clock: SharedClock,
}

/// The bundle endpoint for foreign trust domains.
struct BundleEndpoint {
    address: SocketAddr,
    listener: TcpListener,
    identity: Identities,
    /// The Web PKI certificate to reload, unless the endpoint presents the server's SVID.
    certificate: Option<CertificateFile>,
    router: Router,
}

/// Why a server that had started ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An essential task ended.
    #[error("the server stopped")]
    Task(#[from] TaskFault),
    /// The address file could not be written.
    #[error("the address file could not be written")]
    AddressFile(#[from] WriteError),
}

impl Bound {
    /// All addresses that it listens on.
    #[must_use]
    pub(crate) fn listening(&self) -> Vec<Listening> {
        let bundle_endpoint = self.bundle_endpoint.as_ref();
        let mut places = vec![
            Listening::Tcp(self.tcp_address),
            Listening::Unix(self.socket.path().to_owned()),
        ];
        places.extend(bundle_endpoint.map(|endpoint| Listening::Tcp(endpoint.address)));
        places.extend(self.operators.listening());
        places
    }

    /// The API as the admin socket serves it, for callers in this process. Each request must carry its
    /// `Arc<Connection>`.
    pub fn local_api(&self) -> Router {
        self.admins.clone()
    }

    /// The API as it is served over the network, for callers in this process.
    pub fn network_api(&self) -> Router {
        self.agents.clone()
    }

    /// Serves until `stop` is cancelled, then drains. `address_file` is written once everything serves.
    ///
    /// # Errors
    /// An essential task ended, or the address file could not be written; the server has stopped then.
    pub async fn serve(
        self,
        stop: CancellationToken,
        address_file: Option<&Path>,
    ) -> Result<(), ServeError> {
        let places = self.listening();
        let tasks = Tasks::new(stop.clone());
        self.start(&tasks);
        for place in &places {
            info!(%place, "Serving");
        }
        let written = address_file.map_or(Ok(()), |path| address_file::write(path, &places));
        if written.is_err() {
            stop.cancel();
        } else {
            systemd::ready();
        }
        stop.cancelled().await;
        systemd::stopping();
        let joined = tasks.join(STOP).await;
        written?;
        joined?;
        info!("Server stopped gracefully");
        Ok(())
    }

    fn start(self, tasks: &Tasks) {
        let Self {
            tcp,
            socket,
            store,
            index,
            pruner,
            rotation,
            upstream,
            svid,
            follower,
            bundle_endpoint,
            agents,
            admins,
            operators,
            clock,
            tcp_address: _,
        } = self;
        let stop = tasks.token().clone();
        // An essential task that ends stops the server, so a server that answers health checks is alive.
        let health = Health::default();
        let _server = health.check("server", State::Well);
        let observe = {
            let (index, authority) = (index.clone(), rotation.authority());
            let health = health.clone();
            move || observe::gauges(&index, &authority, &health)
        };
        operators.serve(tasks, &health, &clock, observe);
        tasks.spawn(
            "sweep",
            sweep::run(
                store.clone(),
                index.clone(),
                Arc::clone(&clock),
                stop.clone(),
            ),
        );
        if let Some(pruner) = pruner {
            tasks.spawn("prune-nodes", pruner.run(stop.clone()));
        }
        let broken = async move { BoxError::from(store.broken().await) };
        tasks.essential("store", until_stop(stop.clone(), broken));
        let behind = async move { BoxError::from(index.follow().await) };
        tasks.essential("index", until_stop(stop.clone(), behind));

        let identity = Arc::new(svid.identity());
        tasks.essential("authority", rotation.run(stop.clone()));
        if let Some(upstream) = upstream {
            let stop = stop.clone();
            tasks.essential("upstream", async move {
                upstream.follow(stop).await;
                Ok::<_, BoxError>(())
            });
        }
        tasks.essential("server-svid", svid.run(stop.clone()));

        tasks.essential("federation", follower.run(stop.clone()));
        if let Some(endpoint) = bundle_endpoint {
            endpoint.start(tasks, &clock);
        }

        let options = ServeOptions::new(Http::Http2Only, clock).drain(DRAIN);
        let for_agents = options.clone().max_age(MAX_CONNECTION_AGE);
        let agents = serve_tls(tcp, identity, agents, for_agents, stop.clone());
        tasks.essential("tcp", async move {
            agents.await;
            Ok::<_, BoxError>(())
        });
        let reached = health
            .check("admin_api", State::Well)
            .follow(socket.reachability());
        let admins = serve_unix(socket, admins, options, stop);
        tasks.essential("socket", async move {
            tokio::join!(admins, reached);
            Ok::<_, BoxError>(())
        });
    }
}

impl BundleEndpoint {
    fn start(self, tasks: &Tasks, clock: &SharedClock) {
        let Self {
            address: _,
            listener,
            identity,
            certificate,
            router,
        } = self;
        let stop = tasks.token().clone();
        if let Some(certificate) = certificate {
            tasks.essential("bundle-certificate", certificate.run(stop.clone()));
        }
        let options = ServeOptions {
            connections: limits::BUNDLE_ENDPOINT_CONNECTIONS,
            ..ServeOptions::new(Http::Auto, Arc::clone(clock))
                .drain(DRAIN)
                .max_age(MAX_CONNECTION_AGE)
        };
        let served = serve_tls(listener, Arc::new(identity), router, options, stop);
        tasks.essential("bundle-endpoint", async move {
            served.await;
            Ok::<_, BoxError>(())
        });
    }
}

/// Runs a future whose end is a fault, until the server stops.
async fn until_stop(
    stop: CancellationToken,
    fault: impl Future<Output = BoxError>,
) -> Result<(), BoxError> {
    match stop.run_until_cancelled(fault).await {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
