//! The daemon: what starts in which order, and what ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Bundle, UnixTime};
use countersign_runtime::address_file::{self, Listening};
use countersign_runtime::cli::Exit;
use countersign_runtime::error::{BoxError, Chain};
use countersign_runtime::file::WriteError;
use countersign_runtime::logs::Levels;
use countersign_runtime::serve::Http;
use countersign_runtime::task::TaskFault;
use countersign_runtime::unix::{Access, BindError, Socket};
use countersign_runtime::{ServeOptions, SharedClock, Tasks, serve_unix, systemd};
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::attest::{AttestError, InvalidToken, JoinToken, TrustError, TrustSource, attest, trust};
use crate::client::{Companion, ServerClient, TrustedBundles};
use crate::config::{AgentConfig, JoinTokenSource, KeyStore};
use crate::jwt::JwtSvids;
use crate::node::{Keep, Node};
use crate::selectors::{Attestors, Unix};
use crate::skew::{MAX_SKEW, Skew};
use crate::storage::{State, Storage, StorageError};
use crate::sync::{Fatal, Feed, Settings, Syncer};

/// How long running streams may take to end at the shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the node agent did not start, or ended. Each says what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The socket.
    #[error("{}", Chain(.0))]
    Bind(#[from] BindError),
    /// The trust bundle file.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is nothing to attest with.
    #[error(
        "this node is not attested yet and there is no join token: make one with `countersign-server token generate` and \
         start with -joinToken, or set join_token in the configuration"
    )]
    NoToken,
    /// The identity on disk has run out, and there is nothing to attest with.
    #[error(
        "this node's SVID expired at {0} (it is {1} by this machine's clock) and there is no join token: make a new one \
         with `countersign-server token generate` and start with -joinToken"
    )]
    Expired(UnixTime, UnixTime),
    /// The identity on disk is from the future.
    #[error(
        "this node's SVID is valid from {0}, and it is {1} by this machine's clock: set the clock and start again"
    )]
    NotYetValid(UnixTime, UnixTime),
    /// The join token's file.
    #[error("cannot read the join token from {}: {reason}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
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
    #[error("{}", Chain(.0))]
    AddressFile(#[from] WriteError),
    /// A part of the daemon ended.
    #[error("{}", Chain(.0))]
    Task(#[from] TaskFault),
}

impl AgentError {
    /// The program's exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Task(_) => Exit::Software,
            _ => Exit::Failure,
        }
    }
}

/// Runs the node agent until `stop` is cancelled. `address_file` is written once callers are answered; `levels` is the
/// level of this process's logs.
///
/// # Errors
/// [`AgentError`].
pub async fn run(
    config: AgentConfig,
    address_file: Option<PathBuf>,
    levels: Levels,
    clock: SharedClock,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    // The socket first: whoever can't have it should not spend a join token before finding out.
    let socket = Socket::bind(&config.socket_path, Access::PUBLIC).await?;
    let admin = match &config.admin_socket_path {
        Some(path) => Some(Socket::bind(path, Access::ADMIN).await?),
        None => None,
    };
    let feed = Feed::default();
    let jwt_svids = JwtSvids::new(config.jwt_svids, feed.clone(), Arc::clone(&clock));
    let tasks = Tasks::new(stop.child_token());
    // Should this future be dropped instead of stopped, nothing goes on without it.
    let _stopped = tasks.token().clone().drop_guard();
    let sources = api::Sources {
        feed: feed.clone(),
        jwt_svids: jwt_svids.clone(),
        attestors: Attestors::new(vec![Arc::new(Unix::new(config.discover))]),
        clock: Arc::clone(&clock),
        stop: tasks.token().clone(),
    };
    let admin = admin.map(|socket| (socket, api::admin(&sources, &config.rules, levels)));
    serve(&tasks, socket, admin, &config, &sources);

    let running = Box::pin(async {
        let syncer = start(&config, feed, &jwt_svids, clock).await?;
        if let Some(path) = &address_file {
            address_file::write(path, &[Listening::Unix(config.socket_path.clone())])?;
        }
        tracing::info!(socket = %config.socket_path.display(), "Workload API is served");
        systemd::ready();
        Ok::<_, AgentError>(syncer.run(tasks.token().clone()).await?)
    });
    let result = tasks
        .token()
        .clone()
        .run_until_cancelled(running)
        .await
        .unwrap_or(Ok(()));
    systemd::stopping();
    tasks.token().cancel();
    let joined = tasks.join(DRAIN * 2).await;
    result?;
    Ok(joined?)
}

/// Callers are answered from the beginning, with UNAVAILABLE until the first sync.
fn serve(
    tasks: &Tasks,
    socket: Socket,
    admin: Option<(Socket, axum::Router)>,
    config: &AgentConfig,
    sources: &api::Sources,
) {
    let public = api::public(sources, &config.rules, config.socket_path.clone());
    let clock = Arc::clone(&sources.clock);
    let options = ServeOptions::new(Http::Http2Only, clock).drain(DRAIN);
    let on = |socket: Socket, router: axum::Router| {
        let (options, stop) = (options.clone(), sources.stop.clone());
        async move {
            serve_unix(socket, router, options, stop).await;
            Ok::<_, BoxError>(())
        }
    };
    tasks.essential("workload API", on(socket, public));
    if let Some((socket, router)) = admin {
        tasks.essential("admin API", on(socket, router));
    }
}

/// Everything up to the first sync.
async fn start(
    config: &AgentConfig,
    feed: Feed,
    jwt_svids: &JwtSvids,
    clock: SharedClock,
) -> Result<Syncer, AgentError> {
    let (keep, state) = open_storage(config)?;
    let mut node = Node::new(keep, state, clock.now());
    let bundles = TrustedBundles::default();
    let mut client = ServerClient::new(
        config.server.clone(),
        config.trust_domain.clone(),
        &bundles,
        Arc::clone(&clock),
    );
    match node.identity() {
        Some(identity) => {
            let (not_before, now) = (identity.svid.not_before(), clock.now());
            if not_before > now.after(MAX_SKEW) {
                return Err(AgentError::NotYetValid(not_before, now));
            }
            if config.join_token.is_some() {
                tracing::info!("This node is attested already: the join token is not used");
            }
            tracing::info!(spiffe_id = %identity.svid.id(), expires_at = %identity.svid.not_after(), "SVID found on disk");
        }
        None => attest_node(config, &mut node, &mut client, &bundles, &clock).await?,
    }
    let another = ServerClient::new(
        config.server.clone(),
        config.trust_domain.clone(),
        &bundles,
        Arc::clone(&clock),
    );
    jwt_svids.connect(Companion::new(another, client.shown()));
    let settings = Settings {
        interval: config.sync_interval,
        key_type: config.workload_key_type,
    };
    let mut syncer = Syncer::new(client, bundles, node, feed, clock, settings)?;
    syncer.start().await?;
    Ok(syncer)
}

fn open_storage(config: &AgentConfig) -> Result<(Keep, State), AgentError> {
    let KeyStore::Disk(directory) = &config.key_store else {
        return Ok((Keep::Memory, State::empty(config.trust_domain.clone())));
    };
    // A few small files, before anything else runs: not worth a thread.
    let (storage, state) = Storage::open(directory, &config.trust_domain)?;
    Ok((Keep::Disk(Arc::new(storage)), state))
}

async fn attest_node(
    config: &AgentConfig,
    node: &mut Node,
    client: &mut ServerClient,
    bundles: &TrustedBundles,
    clock: &SharedClock,
) -> Result<(), AgentError> {
    let token = join_token(config, node, clock.now())?;
    match trusted_bundle(config, node)? {
        Some(bundle) => bundles.replace(Arc::new(bundle)),
        None => {
            tracing::warn!(
                "insecure_bootstrap: whoever answers on this first contact is believed to be the server"
            );
            client.trust_anyone();
        }
    }
    tracing::info!(
        server = client.address(),
        "Attesting this node with a join token"
    );
    let attested = attest(client, &token).await?;
    let svid = attested.identity.svid.clone();
    node.attested(attested).await?;
    tracing::info!(spiffe_id = %svid.id(), expires_at = %svid.not_after(), "This node is attested");
    // Only now: the token is spent, and the SVID is worth something once the clock is right.
    Skew::of_new(&svid, clock.now()).map_or(Ok(()), |skew| Err(AgentError::Clock(skew)))
}

fn join_token(config: &AgentConfig, node: &Node, now: UnixTime) -> Result<JoinToken, AgentError> {
    match &config.join_token {
        Some(JoinTokenSource::Given(token)) => Ok(token.clone()),
        Some(JoinTokenSource::File(path)) => {
            let fail = |reason: String| AgentError::TokenFile {
                path: path.clone(),
                reason,
            };
            let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
            JoinToken::new(&text).map_err(|e: InvalidToken| fail(e.to_string()))
        }
        None => Err(node
            .expired()
            .map_or(AgentError::NoToken, |at| AgentError::Expired(at, now))),
    }
}

/// What the server is verified by on first contact; `None` is nothing. What was seen before goes first.
fn trusted_bundle(config: &AgentConfig, node: &Node) -> Result<Option<Bundle>, AgentError> {
    if let Some(bundle) = node.bundle() {
        return Ok(Some(bundle.clone()));
    }
    match &config.trust {
        TrustSource::File(path) => Ok(Some(trust::read_bundle(path, &config.trust_domain)?)),
        TrustSource::Insecure => Ok(None),
    }
}

#[cfg(test)]
mod tests;
