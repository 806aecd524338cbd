//! The node agent's configuration: from a file in SPIRE's shape and the flags of `run` to typed values.
//!
//! Pure, except that it reads the file: nothing is opened, bound or resolved here. All errors are reported together,
//! with file, line and key, before anything starts.

mod api;
mod attestors;
mod callers;
#[cfg(test)]
mod tests;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_config::{AGENT_KEYS, Document, Expansion, InvalidConfig, Section, Warning};
use countersign_daemon::logs::{Format, Level, LogOptions};
use countersign_daemon::operator_endpoints::OperatorEndpoints;
use countersign_identity::tls::KeyExchange;
use countersign_identity::{KeyType, TrustDomain};

use crate::node_attestor::{
    BundleFormat, JoinToken, JoinTokenAttestor, NodeAttestor, Trust, X509PopAttestor,
};
use crate::rotation::Rotation;
use crate::sync::CacheConfig;
use crate::workload_attestor::AttestorConfig;

pub(crate) use crate::node_attestor::JoinTokenSource;
pub use api::{ApiConfig, SdsConfig, VerifierConfig};
pub(crate) use api::{Delegates, MethodRates, SecretNames, Validation};
pub(crate) use trust::{MOST_REBOOTSTRAP_DELAY, RebootstrapMode, TrustOverride};

/// Where SPIRE looks for the file unless a flag names it.
pub(crate) const DEFAULT_FILE: &str = "conf/agent/agent.conf";
/// The Workload API socket when nothing else is configured.
pub(crate) const DEFAULT_SOCKET: &str = "/tmp/spire-agent/public/api.sock";

const DEFAULT_PORT: u16 = 8081;
const DEFAULT_DATA_DIR: &str = ".";
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Syncing more often would load the server without benefit.
const LEAST_SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// SPIRE's minimum of `availability_target`: renewal at half-life gives that much anyway.
const LEAST_AVAILABILITY_TARGET: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_AVAILABILITY_TARGET: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const DEFAULT_SVIDS: usize = 1000;
const MOST_SVIDS: i64 = 1_000_000;
/// With a longer interval short-lived SVIDs would expire between two syncs.
const MOST_SYNC_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The whole configuration of a node agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The trust domain of this node.
    pub(crate) trust_domain: TrustDomain,
    /// The server, as `host:port`.
    pub(crate) server: String,
    /// The key exchanges with the server.
    pub(crate) key_exchange: KeyExchange,
    /// How the server is verified on first contact, and perhaps later.
    pub(crate) trust: Trust,
    /// The node attestor and its credentials.
    pub(crate) node_attestor: Arc<dyn NodeAttestor>,
    /// Where the node's identity is stored.
    pub(crate) key_store: KeyStore,
    /// Whether workloads' SVIDs are stored with it, encrypted, for the next process. No effect if the key store is in
    /// memory.
    pub(crate) svids_on_disk: bool,
    /// Size of the cache of workloads' SVIDs, and when they are renewed.
    pub(crate) cache: CacheConfig,
    /// The public socket, of the Workload API and Envoy's secret discovery; it is not opened if neither is served.
    pub(crate) socket_path: PathBuf,
    /// The admin socket, if there is to be one.
    pub(crate) admin_socket_path: Option<PathBuf>,
    /// What callers may request.
    pub(crate) api: ApiConfig,
    /// Capacity of the cache of JWT-SVIDs.
    pub(crate) jwt_svids: usize,
    /// How callers are attested.
    pub(crate) workload_attestors: Vec<AttestorConfig>,
    /// The key type of workloads' SVIDs.
    pub(crate) workload_key_type: KeyType,
    /// Interval between syncs with the server.
    pub(crate) sync_interval: Duration,
    /// Level, format and file of the log.
    pub(crate) logs: LogOptions,
    /// Where health and metrics are served.
    pub(crate) operators: OperatorEndpoints,
}

/// Where the node's key and SVID are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyStore {
    /// In a file in this directory.
    Disk(PathBuf),
    /// Nowhere: each start needs a new join token.
    Memory,
}

/// The flags of `run`; each overrides the same key of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `-serverAddress`.
    pub(crate) server_address: Option<String>,
    /// `-serverPort`.
    pub(crate) server_port: Option<u16>,
    /// `-trustDomain`.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// `-trustBundle`, `-trustBundleUrl` or `-insecureBootstrap`.
    pub(crate) trust: Option<TrustOverride>,
    /// `-trustBundleFormat`.
    pub(crate) trust_format: Option<BundleFormat>,
    /// `-rebootstrapMode`.
    pub(crate) rebootstrap_mode: Option<RebootstrapMode>,
    /// `-rebootstrapDelay`.
    pub(crate) rebootstrap_delay: Option<Duration>,
    /// `-joinToken` or `-joinTokenFile`.
    pub(crate) join_token: Option<JoinTokenSource>,
    /// `-dataDir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `-socketPath`.
    pub(crate) socket_path: Option<PathBuf>,
    /// `-allowUnauthenticatedVerifiers`.
    pub(crate) allow_unauthenticated_verifiers: bool,
    /// `-disableWorkloadAPI`.
    pub(crate) disable_workload_api: bool,
    /// `-disableSDSAPI`.
    pub(crate) disable_sds_api: bool,
    /// `-logLevel`.
    pub(crate) log_level: Option<Level>,
    /// `-logFormat`.
    pub(crate) log_format: Option<Format>,
    /// `-logFile`.
    pub(crate) log_file: Option<PathBuf>,
}

impl AgentConfig {
    /// Reads and checks a file. Keys without effect are returned as warnings.
    ///
    /// # Errors
    /// The file can't be read or breaks the syntax, or keys and values are wrong: all of them, in the order of the
    /// file.
    pub(crate) fn load(
        file: &Path,
        expansion: Expansion,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Warning>), InvalidConfig> {
        Document::load(file, expansion, AGENT_KEYS)?.read(|document| build(document, overrides))
    }

    /// As [`AgentConfig::load`], of a text; `file` is only its name in messages.
    ///
    /// # Errors
    /// As [`AgentConfig::load`].
    pub fn parse(
        file: &str,
        text: &str,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Warning>), InvalidConfig> {
        Document::parse(file, text, AGENT_KEYS)?.read(|document| build(document, overrides))
    }
}

fn build(document: &Document, overrides: &Overrides) -> Option<AgentConfig> {
    let agent = document.section("agent");
    // Everything is read before the first `?`, so that all errors are reported together.
    let server = server(&agent, overrides);
    let trust_domain = match &overrides.trust_domain {
        Some(trust_domain) => Some(trust_domain.clone()),
        None => {
            agent.require(&["trust_domain"]);
            agent.parsed("trust_domain", TrustDomain::from_name_or_id)
        }
    };
    let trust = trust::trust(document, &agent, overrides);
    let node_attestor = node_attestor(document, &agent, overrides);
    let key_store = key_store(document, &agent, overrides);
    let svids_on_disk = agent.bool("keep_svids_on_disk").unwrap_or(true);
    let cache = cache(&agent);
    let operators = countersign_daemon::config::operators(document);
    let workload_attestors = attestors::workload_attestors(document);
    let socket_path = overrides.socket_path.clone().or(agent.path("socket_path"));
    let socket_path = socket_path.unwrap_or_else(|| DEFAULT_SOCKET.into());
    let admin_socket_path = callers::admin_socket(&agent, &socket_path);
    let api = callers::api(&agent, overrides, trust_domain.as_ref());
    let jwt_svids = callers::jwt_svids(&agent);
    let workload_key_type = workload_key_type(&agent);
    let experimental = agent.section("experimental");
    let sync_interval =
        experimental.duration("sync_interval", LEAST_SYNC_INTERVAL..=MOST_SYNC_INTERVAL);
    let key_exchange = match experimental.bool("require_pq_kem") {
        Some(true) => KeyExchange::RequirePostQuantum,
        Some(false) | None => KeyExchange::PreferPostQuantum,
    };
    let logs = countersign_daemon::config::logs(
        &agent,
        overrides.log_level,
        overrides.log_format,
        overrides.log_file.clone(),
    );
    Some(AgentConfig {
        trust_domain: trust_domain?,
        server: server?,
        key_exchange,
        trust: trust?,
        node_attestor: node_attestor?,
        key_store: key_store?,
        svids_on_disk,
        cache,
        socket_path,
        admin_socket_path,
        api,
        jwt_svids,
        workload_attestors: workload_attestors?,
        workload_key_type,
        sync_interval: sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        logs,
        operators,
    })
}

fn server(agent: &Section<'_>, overrides: &Overrides) -> Option<String> {
    let address = overrides.server_address.clone().or_else(|| {
        agent.require(&["server_address"]);
        agent.string("server_address")
    });
    let port = overrides
        .server_port
        .or(agent.port("server_port"))
        .unwrap_or(DEFAULT_PORT);
    if port == 0 {
        agent.wrong("server_port", "there is no server on port 0");
        return None;
    }
    let address = address?;
    // A bare IPv6 address has colons of its own.
    let bare_v6 = address.parse::<std::net::Ipv6Addr>().is_ok();
    Some(if bare_v6 {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    })
}

fn cache(agent: &Section<'_>) -> CacheConfig {
    let most = agent
        .integer("x509_svid_cache_max_size", 0..=MOST_SVIDS)
        .and_then(|most| usize::try_from(most).ok())
        .filter(|most| *most > 0);
    let availability_target = agent.duration(
        "availability_target",
        LEAST_AVAILABILITY_TARGET..=MOST_AVAILABILITY_TARGET,
    );
    CacheConfig {
        max_svids: most.unwrap_or(DEFAULT_SVIDS),
        rotation: Rotation {
            availability_target,
        },
    }
}

fn node_attestor(
    document: &Document,
    agent: &Section<'_>,
    overrides: &Overrides,
) -> Option<Arc<dyn NodeAttestor>> {
    let source = join_token(agent, overrides);
    let plugin = document.required_plugin("NodeAttestor")?;
    if plugin.name != "x509pop" {
        return Some(Arc::new(JoinTokenAttestor { source }));
    }
    if source.is_some() {
        agent.warn(
            "join_token",
            "this node attests by x509pop: the join token is not used",
        );
    }
    plugin
        .data
        .require(&["private_key_path", "certificate_path"]);
    Some(Arc::new(X509PopAttestor {
        private_key: plugin.data.path("private_key_path")?,
        certificate: plugin.data.path("certificate_path")?,
        intermediates: plugin.data.path("intermediates_path"),
    }))
}

fn join_token(agent: &Section<'_>, overrides: &Overrides) -> Option<JoinTokenSource> {
    let (token, file) = (
        agent.parsed("join_token", JoinToken::new),
        agent.path("join_token_file"),
    );
    if token.is_some() && file.is_some() {
        agent.wrong(
            "join_token_file",
            "it can't go together with join_token: remove one of the two",
        );
    }
    overrides
        .join_token
        .clone()
        .or(token.map(JoinTokenSource::Given))
        .or(file.map(JoinTokenSource::File))
}

fn key_store(document: &Document, agent: &Section<'_>, overrides: &Overrides) -> Option<KeyStore> {
    let data_dir = overrides.data_dir.clone().or(agent.path("data_dir"));
    let plugin = document.required_plugin("KeyManager")?;
    match plugin.name {
        "memory" => Some(KeyStore::Memory),
        // Key, SVID and bundle are useful only together: one file, in the directory where SPIRE stores the key.
        _ => Some(KeyStore::Disk(
            plugin
                .data
                .path("directory")
                .or(data_dir)
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
        )),
    }
}

fn workload_key_type(agent: &Section<'_>) -> KeyType {
    agent
        .choice(
            "workload_x509_svid_key_type",
            &countersign_identity::csr::WORKLOAD_KEY_TYPES.map(|t| (t.as_str(), t)),
        )
        .unwrap_or(KeyType::EcP256)
}
