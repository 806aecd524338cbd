//! The daemon: its tasks, and how they stop.

mod start;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use countersign_daemon::address_file::{self, Listening};
use countersign_daemon::cli::Exit;
use countersign_daemon::health::{Health, State};
use countersign_daemon::logs::Levels;
use countersign_daemon::metrics::{count, float};
use countersign_daemon::operator_endpoints::EndpointError;
use countersign_daemon::otlp::Otlp;
use countersign_daemon::systemd;
use countersign_identity::UnixTime;
use countersign_transport::error::BoxError;
use countersign_transport::file::WriteError;
use countersign_transport::serve::Http;
use countersign_transport::task::TaskFault;
use countersign_transport::unix::{Access, BindError, Socket};
use countersign_transport::{ServeOptions, SharedClock, Tasks, serve_unix};
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::AgentConfig;
use crate::jwt::JwtSvids;
use crate::limits;
use crate::metrics;
use crate::node_attestor::{AttestError, TrustError};
use crate::signatures::Signatures;
use crate::skew::Skew;
use crate::storage::StorageError;
use crate::sync::{Fatal, Feed, SyncHealth};
use crate::workload_attestor::{AttestorConfig, Attestors};
use start::Start;

/// Deadline for streams to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the node agent did not start, or ended. Each says what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The trust bundle file.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The endpoints of health or metrics can't be opened.
    #[error(transparent)]
    Operate(#[from] EndpointError),
    /// There is nothing to attest with.
    #[error(
        "this node is not attested yet and there is no join token: make one with `countersign-server token generate` and \
         start with -joinToken, or set join_token in the configuration"
    )]
    NoToken,
    /// The identity on disk has expired, and no node attestor is configured to attest again.
    #[error(
        "this node's SVID expired at {0} (it is {1} by this machine's clock) and there is no join token: make a new one \
         with `countersign-server token generate` and start with -joinToken"
    )]
    Expired(UnixTime, UnixTime),
    /// The identity on disk is not valid yet: the clock is behind.
    #[error(
        "this node's SVID is valid from {0}, and it is {1} by this machine's clock: set the clock and start again"
    )]
    NotYetValid(UnixTime, UnixTime),
    /// The attestation.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The clocks differ.
    #[error(
        "this node was attested and its SVID is on disk, but {0}; then start again, without a new join token"
    )]
    Clock(Skew),
    /// The sync.
    #[error(transparent)]
    Sync(#[from] Fatal),
    /// The address file.
    #[error(transparent)]
    AddressFile(#[from] WriteError),
    /// An essential task ended.
    #[error(transparent)]
    Task(#[from] TaskFault),
}

impl AgentError {
    /// The program's exit code.
    #[must_use]
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Task(_) => Exit::Software,
            _ => Exit::Failure,
        }
    }
}

/// Runs the node agent until `stop` is cancelled. `address_file` is written once callers are answered; `levels` is the
/// level of this process's logs, and `otlp` what was started for the collector.
///
/// # Errors
/// [`AgentError`].
pub(crate) async fn run(
    config: AgentConfig,
    address_file: Option<PathBuf>,
    levels: Levels,
    otlp: Option<&Otlp>,
    clock: SharedClock,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    // The socket first: a node agent that can't have it must find out before it spends a join token.
    let public = config.api.has_public_socket();
    let socket = match public {
        true => Some(Socket::bind(&config.socket_path, Access::PUBLIC).await?),
        false => None,
    };
    let admin = match &config.admin_socket_path {
        Some(path) => Some(Socket::bind(path, Access::ADMIN).await?),
        None => None,
    };
    let operators = config.operators.bind(metrics::ALL, otlp).await?;
    register_counters();
    let mut places = operators.listening();
    if public {
        places.insert(0, Listening::Unix(config.socket_path.clone()));
    }
    let (feed, health) = (Feed::default(), Health::default());
    let jwt_svids = JwtSvids::new(config.jwt_svids, feed.clone(), Arc::clone(&clock));
    let tasks = Tasks::new(stop.child_token());
    // If this future is dropped instead of stopped, its tasks end with it.
    let _stopped = tasks.token().clone().drop_guard();
    let observe = {
        let (feed, jwt_svids, health) = (feed.clone(), jwt_svids.clone(), health.clone());
        move || observe(&feed, &jwt_svids, &health)
    };
    operators.serve(&tasks, &health, &clock, observe);
    let sources = api::Sources {
        feed: feed.clone(),
        jwt_svids: jwt_svids.clone(),
        attestors: Attestors::new(
            config
                .workload_attestors
                .iter()
                .map(AttestorConfig::build)
                .collect(),
        ),
        clock: Arc::clone(&clock),
        stop: tasks.token().clone(),
    };
    let admin = admin.map(|socket| (socket, api::admin(&sources, &config.api, levels)));
    serve(&tasks, socket, admin, &config, &sources, &health);

    let announced = OnceLock::new();
    let announce = || {
        if announced.set(()).is_ok() {
            if let Some(path) = &address_file {
                address_file::write(path, &places)?;
            }
            if public {
                tracing::info!(socket = %config.socket_path.display(), "Callers are served");
            }
            systemd::ready();
        }
        Ok(())
    };
    let running = Box::pin(async {
        let start = Start {
            config: &config,
            feed,
            jwt_svids: &jwt_svids,
            clock,
            health: SyncHealth::new(&health),
        };
        let stop = tasks.token();
        let Some(syncer) = stop
            .run_until_cancelled(Box::pin(start.start(&announce)))
            .await
        else {
            return Ok(());
        };
        let syncer = syncer?;
        announce()?;
        // The syncer watches `stop` itself, and flushes unwritten changes to the disk.
        Ok::<_, AgentError>(syncer.run(stop.clone()).await?)
    });
    let result = running.await;
    systemd::stopping();
    tasks.token().cancel();
    let joined = tasks.join(DRAIN * 2).await;
    result?;
    Ok(joined?)
}

/// Registers the counters with known labels at start, at 0, so that monitoring sees their first increase.
fn register_counters() {
    ::metrics::gauge!(metrics::BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for result in ["ok", "failed"] {
        ::metrics::counter!(metrics::SYNCS.name, "result" => result).increment(0);
        ::metrics::counter!(metrics::NODE_RENEWALS.name, "result" => result).increment(0);
    }
    for signatures in Signatures::ALL {
        signatures.succeeded(0, 0);
        signatures.failed(0);
    }
}

/// Sets the polled gauges.
fn observe(feed: &Feed, jwt_svids: &JwtSvids, health: &Health) {
    ::metrics::gauge!(metrics::SVIDS.name, "kind" => metrics::JWT).set(float(jwt_svids.count()));
    let synced_at = Duration::from_secs(feed.synced_at().as_secs());
    ::metrics::gauge!(metrics::LAST_SYNC.name).set(synced_at.as_secs_f64());
    count(metrics::READY, usize::from(health.is_ready()));
}

/// Serves callers from the start, with UNAVAILABLE until the first sync (decision 0003).
fn serve(
    tasks: &Tasks,
    socket: Option<Socket>,
    admin: Option<(Socket, axum::Router)>,
    config: &AgentConfig,
    sources: &api::Sources,
    health: &Health,
) {
    let clock = Arc::clone(&sources.clock);
    let options = ServeOptions::new(Http::Http2Only, clock)
        .drain(DRAIN)
        .requests(limits::STREAMS_PER_CONNECTION, limits::HEADER_BYTES);
    let on = |name: &'static str, socket: Socket, router: axum::Router| {
        let (options, stop) = (options.clone(), sources.stop.clone());
        let reached = health
            .check(name, State::Well)
            .follow(socket.reachability());
        async move {
            tokio::join!(serve_unix(socket, router, options, stop), reached);
            Ok::<_, BoxError>(())
        }
    };
    if let Some(socket) = socket {
        let public = api::public(sources, &config.api, config.socket_path.clone());
        tasks.essential("workload API", on("workload_api", socket, public));
    }
    if let Some((socket, router)) = admin {
        tasks.essential("admin API", on("admin_api", socket, router));
    }
}

#[cfg(test)]
mod tests;
