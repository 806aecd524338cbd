//! The server's configuration: from a file in SPIRE's shape and the flags of `run` to typed values.
//!
//! Pure but for reading the file: nothing is opened, bound or resolved here. Everything that is wrong is reported
//! together, with file, line and key, before anything starts.

mod federation;
mod plugin;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_ca::authority;
use countersign_config::{
    DEFAULT_SERVER_SOCKET, Document, Expansion, InvalidConfig, SERVER_KEYS, Section, Warning,
};
use countersign_daemon::logs::{Format, Level, LogOptions};
use countersign_daemon::operator_endpoints::OperatorEndpoints;
use countersign_identity::issue::Subject;
use countersign_identity::key::KeyType;
use countersign_identity::tls::KeyExchange;
use countersign_identity::{SpiffeId, TrustDomain};

pub(crate) use plugin::{
    KeyManagerChoice, NodeAttestorChoice, StoreChoice, UpstreamChoice, x509pop,
};

use crate::federation::FederationSettings;
use crate::jobs::PruneNodes;

/// The configuration file that `run` and `validate` read by default, as with SPIRE.
pub(crate) const DEFAULT_FILE: &str = "conf/server/server.conf";

const DEFAULT_ADDRESS: &str = "0.0.0.0";
const DEFAULT_PORT: u16 = 8081;
const DEFAULT_CA_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_SVID_TTL: Duration = Duration::from_secs(60 * 60);
const DEFAULT_JWT_SVID_TTL: Duration = Duration::from_secs(5 * 60);
/// A shorter-lived authority would be replaced before peers fetch the bundle with the next one.
const LEAST_CA_TTL: Duration = Duration::from_secs(30);
/// A shorter-lived SVID would expire before it is used.
const LEAST_SVID_TTL: Duration = Duration::from_secs(5);
/// Ten years: a longer lifetime is a mistake, and with this bound no date overflows.
const MOST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// The longest organization or common name in a subject, in characters (RFC 5280, appendix A.1).
const MAX_NAME: usize = 64;
/// The longest issuer, in bytes: it is part of every JWT-SVID.
const MAX_JWT_ISSUER: usize = 2_048;
/// How many expired node agents are pruned in one run: the default and the maximum.
const DEFAULT_PRUNED: usize = 1_000;
const MOST_PRUNED: i64 = 100_000;

/// The whole configuration of the server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address for node agents: an IP address or a name that resolves to one.
    pub(crate) bind_address: String,
    /// The port for node agents; 0 takes a free one.
    pub bind_port: u16,
    /// The admin socket.
    pub(crate) socket_path: PathBuf,
    /// The settings of the authorities.
    pub(crate) authority: authority::Settings,
    /// The data store.
    pub(crate) store: StoreChoice,
    /// The key manager.
    pub(crate) key_manager: KeyManagerChoice,
    /// The node attestors.
    pub(crate) node_attestors: Vec<NodeAttestorChoice>,
    /// IDs that are admins without an entry, of this trust domain or of others whose bundles are known.
    pub(crate) admin_ids: HashSet<SpiffeId>,
    /// Whether each call of the API leaves a line in the log.
    pub(crate) audit_log: bool,
    /// Which expired node agents are pruned, if any.
    pub(crate) prune_nodes: Option<PruneNodes>,
    /// Whether each node agent's ID is also one of its selectors.
    pub(crate) agent_id_selector: bool,
    /// The key exchanges of this server's TLS, except towards an upstream server.
    pub(crate) key_exchange: KeyExchange,
    /// The upstream authority; without one the server's authorities are self-signed.
    pub(crate) upstream: Option<UpstreamChoice>,
    /// Which calls are rate-limited per address.
    pub(crate) rate_limits: RateLimits,
    /// The bundle endpoint, and the relationships with foreign trust domains.
    pub(crate) federation: FederationSettings,
    /// Level, format and file of the log.
    pub(crate) logs: LogOptions,
    /// The endpoints for health and metrics.
    pub(crate) operators: OperatorEndpoints,
}

/// Which of the rate limits that can be turned off are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimits {
    /// Attestations.
    pub(crate) attestation: bool,
    /// Signatures.
    pub(crate) signing: bool,
}

/// The flags of `run`; each overrides the same key of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `-bindAddress`.
    pub bind_address: Option<String>,
    /// `-serverPort`.
    pub bind_port: Option<u16>,
    /// `-socketPath`.
    pub socket_path: Option<PathBuf>,
    /// `-trustDomain`.
    pub trust_domain: Option<TrustDomain>,
    /// `-dataDir`.
    pub data_dir: Option<PathBuf>,
    /// `-logLevel`.
    pub log_level: Option<Level>,
    /// `-logFormat`.
    pub log_format: Option<Format>,
    /// `-logFile`.
    pub log_file: Option<PathBuf>,
}

impl ServerConfig {
    /// Reads and checks a file. Settings without effect are returned as warnings.
    ///
    /// # Errors
    /// The file can't be read or breaks the syntax, or keys and values are wrong: all of them, in the order of the file.
    pub(crate) fn load(
        file: &Path,
        expansion: Expansion,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Warning>), InvalidConfig> {
        Document::load(file, expansion, SERVER_KEYS)?.read(|document| build(document, overrides))
    }

    /// As [`ServerConfig::load`], of a text; `file` is only its name in messages.
    ///
    /// # Errors
    /// As [`ServerConfig::load`].
    pub fn parse(
        file: &str,
        text: &str,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Warning>), InvalidConfig> {
        Document::parse(file, text, SERVER_KEYS)?.read(|document| build(document, overrides))
    }
}

fn build(document: &Document, overrides: &Overrides) -> Option<ServerConfig> {
    let server = document.section("server");
    let bind_address = server.string("bind_address");
    let bind_port = server.port("bind_port");
    let socket_path = server.path("socket_path");
    let data_dir = overrides.data_dir.clone().or(server.path("data_dir"));
    let authority = authority_settings(&server, overrides);
    let admin_ids = admin_ids(&server);
    let audit_log = server.bool("audit_log_enabled").unwrap_or(false);
    let prune_nodes = prune_nodes(&server);
    let experimental = server.section("experimental");
    let agent_id_selector = experimental.bool("agent_spiffe_id_as_selector");
    let key_exchange = key_exchange(&experimental);
    let rate_limits = rate_limits(&server);
    let federation = federation::settings(&server);
    let logs = countersign_daemon::config::logs(
        &server,
        overrides.log_level,
        overrides.log_format,
        overrides.log_file.clone(),
    );
    let operators = countersign_daemon::config::operators(document);
    let (storage, node_attestors, upstream) = (
        plugin::storage(document, &server, data_dir),
        plugin::node_attestors(document),
        plugin::upstream(document),
    );
    let storage = storage?;
    Some(ServerConfig {
        bind_address: overrides
            .bind_address
            .clone()
            .or(bind_address)
            .unwrap_or_else(|| DEFAULT_ADDRESS.into()),
        bind_port: overrides.bind_port.or(bind_port).unwrap_or(DEFAULT_PORT),
        socket_path: overrides
            .socket_path
            .clone()
            .or(socket_path)
            .unwrap_or_else(|| DEFAULT_SERVER_SOCKET.into()),
        authority: authority?,
        store: storage.store,
        key_manager: storage.key_manager,
        node_attestors,
        admin_ids,
        audit_log,
        prune_nodes,
        agent_id_selector: agent_id_selector.unwrap_or(false),
        key_exchange,
        upstream,
        rate_limits,
        federation,
        logs,
        operators,
    })
}

fn authority_settings(server: &Section<'_>, overrides: &Overrides) -> Option<authority::Settings> {
    let trust_domain = match &overrides.trust_domain {
        Some(trust_domain) => Some(trust_domain.clone()),
        None => {
            server.require(&["trust_domain"]);
            server.parsed("trust_domain", TrustDomain::from_name_or_id)
        }
    };
    let ca_ttl = server
        .duration("ca_ttl", LEAST_CA_TTL..=MOST_TTL)
        .unwrap_or(DEFAULT_CA_TTL);
    let x509_svid_ttl = server
        .duration("default_x509_svid_ttl", LEAST_SVID_TTL..=MOST_TTL)
        .unwrap_or(DEFAULT_SVID_TTL);
    let agent_ttl = server
        .duration("agent_ttl", LEAST_SVID_TTL..=MOST_TTL)
        .unwrap_or(x509_svid_ttl);
    let ca_key_type = key_type(server, "ca_key_type").unwrap_or(KeyType::EcP256);
    let jwt = jwt_settings(server, ca_key_type);
    warn_if_cut_short(
        server,
        ca_ttl,
        &[
            ("default_x509_svid_ttl", Some(x509_svid_ttl)),
            ("agent_ttl", Some(agent_ttl)),
            ("default_jwt_svid_ttl", jwt.as_ref().map(|jwt| jwt.svid_ttl)),
        ],
    );
    Some(authority::Settings {
        trust_domain: trust_domain?,
        ca_ttl,
        ca_key_type,
        ca_subject: subject(server),
        x509_svid_ttl,
        agent_ttl,
        jwt,
    })
}

/// The settings of JWT-SVIDs; none if they are turned off. They are checked in any case.
fn jwt_settings(server: &Section<'_>, ca_key_type: KeyType) -> Option<authority::JwtSettings> {
    let svid_ttl = server
        .duration("default_jwt_svid_ttl", LEAST_SVID_TTL..=MOST_TTL)
        .unwrap_or(DEFAULT_JWT_SVID_TTL);
    let issuer = server.string("jwt_issuer").filter(|i| !i.is_empty());
    if issuer.as_ref().is_some_and(|i| i.len() > MAX_JWT_ISSUER) {
        server.wrong(
            "jwt_issuer",
            format!("an issuer is at most {MAX_JWT_ISSUER} bytes long"),
        );
    }
    let key_type = key_type(server, "jwt_key_type").unwrap_or(ca_key_type);
    let disabled = server.bool("disable_jwt_svids").unwrap_or(false);
    (!disabled).then_some(authority::JwtSettings {
        key_type,
        svid_ttl,
        issuer,
    })
}

/// Warns of SVIDs that the authority's own end would cut short: it signs until a sixth of its life is left, and no SVID
/// outlives it.
fn warn_if_cut_short(server: &Section<'_>, ca_ttl: Duration, ttls: &[(&str, Option<Duration>)]) {
    for (key, ttl) in ttls {
        if let Some(ttl) = ttl
            && *ttl > ca_ttl / 6
        {
            server.warn(
                key,
                format!(
                    "SVIDs of {ttl:?} can come out shorter, since none outlives the authority: \
                     set ca_ttl to {:?} or more to rule that out",
                    *ttl * 6
                ),
            );
        }
    }
}

fn key_type(server: &Section<'_>, key: &str) -> Option<KeyType> {
    let types = [
        KeyType::EcP256,
        KeyType::EcP384,
        KeyType::Rsa2048,
        KeyType::Rsa4096,
    ];
    server.choice(key, &types.map(|t| (t.as_str(), t)))
}

fn subject(server: &Section<'_>) -> Subject {
    let section = server.section("ca_subject");
    let subject = Subject {
        country: only_name(&section, "country"),
        organization: only_name(&section, "organization"),
        common_name: section.string("common_name").unwrap_or_default(),
        ..Subject::default()
    };
    let country = subject.country.as_bytes();
    if !(country.is_empty() || country.len() == 2 && country.iter().all(u8::is_ascii_alphabetic)) {
        section.wrong(
            "country",
            "a country is a code of two letters, such as \"US\"",
        );
    }
    for (key, name) in [
        ("organization", &subject.organization),
        ("common_name", &subject.common_name),
    ] {
        if name.chars().count() > MAX_NAME {
            section.wrong(key, format!("at most {MAX_NAME} characters can stand here"));
        }
    }
    if subject == Subject::default() {
        Subject::authority()
    } else {
        subject
    }
}

/// The only name of a list: subjects are written with one attribute of each type.
fn only_name(section: &Section<'_>, key: &str) -> String {
    let mut names = section.list(key).unwrap_or_default();
    if names.len() > 1 {
        section.wrong(key, "only one can stand in a subject here");
    }
    names.pop().unwrap_or_default()
}

fn admin_ids(server: &Section<'_>) -> HashSet<SpiffeId> {
    let texts = server.list("admin_ids").unwrap_or_default();
    let parse = |text: &String| match SpiffeId::parse(text) {
        Ok(id) => Some(id),
        Err(error) => {
            server.wrong("admin_ids", format!("{text:?} is not a SPIFFE ID: {error}"));
            None
        }
    };
    texts.iter().filter_map(parse).collect()
}

fn prune_nodes(server: &Section<'_>) -> Option<PruneNodes> {
    let key = "prune_attested_nodes_expired_for";
    let expired_for = server.duration(key, Duration::ZERO..=MOST_TTL);
    let batch = server.integer("prune_attested_nodes_batch_size", 0..=MOST_PRUNED);
    let tofu = server.bool("prune_tofu_nodes").unwrap_or(false);
    let expired_for = expired_for.filter(|expired_for| !expired_for.is_zero())?;
    let batch = batch.and_then(|batch| usize::try_from(batch).ok());
    Some(PruneNodes {
        expired_for,
        tofu,
        batch: batch.filter(|batch| *batch > 0).unwrap_or(DEFAULT_PRUNED),
    })
}

fn rate_limits(server: &Section<'_>) -> RateLimits {
    let section = server.section("ratelimit");
    RateLimits {
        attestation: section.bool("attestation").unwrap_or(true),
        signing: section.bool("signing").unwrap_or(true),
    }
}

/// `require_pq_kem` of a section `experimental`.
fn key_exchange(experimental: &Section<'_>) -> KeyExchange {
    match experimental.bool("require_pq_kem") {
        Some(true) => KeyExchange::RequirePostQuantum,
        Some(false) | None => KeyExchange::PreferPostQuantum,
    }
}
