//! Reads the settings of bootstrap trust: how the server is verified on first contact.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_config::{Document, Section};

use super::Overrides;
use crate::node_attestor::{BundleFormat, BundleUrl, Rebootstrap, Trust, TrustSource};

/// Default of `rebootstrap_delay`: how long the server can't be verified before the node agent bootstraps trust again.
const DEFAULT_REBOOTSTRAP_DELAY: Duration = Duration::from_secs(10 * 60);
/// The largest `rebootstrap_delay`.
pub(crate) const MOST_REBOOTSTRAP_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Prefixes of a Workload API address (SPIFFE Workload Endpoint, section 4), longest first.
const UNIX: [&str; 2] = ["unix://", "unix:"];

/// The source of bootstrap trust, as given by flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrustOverride {
    /// `-trustBundle`.
    File(PathBuf),
    /// `-trustBundleUrl`; the socket that it may need is configured in the file.
    Url(String),
    /// `-insecureBootstrap`.
    Insecure,
}

/// `rebootstrap_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RebootstrapMode {
    /// The node agent ends.
    #[default]
    Never,
    /// If this node may attest again.
    Auto,
    /// The same, and a node that may not is a fault.
    Always,
}

impl RebootstrapMode {
    /// The modes by their names.
    pub(crate) const NAMES: [(&'static str, Self); 3] = [
        ("never", Self::Never),
        ("auto", Self::Auto),
        ("always", Self::Always),
    ];
}

pub(super) fn trust(
    document: &Document,
    agent: &Section<'_>,
    overrides: &Overrides,
) -> Option<Trust> {
    let format = agent.choice("trust_bundle_format", &BundleFormat::NAMES);
    let rebootstrap = rebootstrap(agent, overrides);
    let source = match &overrides.trust {
        Some(TrustOverride::File(path)) => TrustSource::File(path.clone()),
        Some(TrustOverride::Url(url)) => {
            let socket = agent.path("trust_bundle_unix_socket");
            TrustSource::Url(bundle_url(
                agent,
                url,
                "-trustBundleUrl: ",
                socket.as_deref(),
            )?)
        }
        Some(TrustOverride::Insecure) => TrustSource::Insecure,
        None => trust_source(document, agent)?,
    };
    if source == TrustSource::Insecure && rebootstrap != Rebootstrap::Never {
        agent.wrong(
            "rebootstrap_mode",
            "without a source of trust, whoever takes the server's place would be believed: use trust_bundle_path or \
             trust_bundle_url, or leave it at \"never\"",
        );
    }
    Some(Trust {
        source,
        format: overrides.trust_format.or(format).unwrap_or_default(),
        rebootstrap,
    })
}

/// Reads exactly one of the sources, and records errors.
fn trust_source(document: &Document, agent: &Section<'_>) -> Option<TrustSource> {
    let socket = agent.path("trust_bundle_unix_socket");
    let path = agent.path("trust_bundle_path");
    let url = agent.string("trust_bundle_url");
    let workload_api = agent.string("trust_bundle_spiffe_workload_api");
    let insecure = agent.bool("insecure_bootstrap") == Some(true);
    if socket.is_some() && url.is_none() {
        agent.wrong(
            "trust_bundle_unix_socket",
            "it needs trust_bundle_url, which says what to ask for there",
        );
    }
    let given: Vec<&str> = [
        ("trust_bundle_path", path.is_some()),
        ("trust_bundle_url", url.is_some()),
        ("trust_bundle_spiffe_workload_api", workload_api.is_some()),
        ("insecure_bootstrap", insecure),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    let url = url.and_then(|url| bundle_url(agent, &url, "", socket.as_deref()));
    let workload_api = workload_api.and_then(|address| workload_api_socket(agent, &address));
    match given.as_slice() {
        [] => {
            let what = "agent.trust_bundle_path is required: the file into which `countersign-server bundle show` was \
                        written (or trust_bundle_url, or trust_bundle_spiffe_workload_api, or insecure_bootstrap = true, \
                        for trials)";
            document.wrong(agent.at("trust_bundle_path"), what);
            None
        }
        [_] if insecure => {
            agent.warn(
                "insecure_bootstrap",
                "whoever answers on the first contact is believed to be the server: use trust_bundle_path outside of trials",
            );
            Some(TrustSource::Insecure)
        }
        [_] => path
            .map(TrustSource::File)
            .or(url.map(TrustSource::Url))
            .or(workload_api.map(TrustSource::WorkloadApi)),
        [first, others @ ..] => {
            for key in others {
                agent.wrong(
                    key,
                    format!("it can't go together with {first}: leave one of them"),
                );
            }
            None
        }
    }
}

/// Parses a URL from the file or from a flag; errors name the flag.
fn bundle_url(
    agent: &Section<'_>,
    url: &str,
    flag: &str,
    socket: Option<&Path>,
) -> Option<BundleUrl> {
    BundleUrl::new(url, socket)
        .map_err(|error| agent.wrong("trust_bundle_url", format!("{flag}{error}")))
        .ok()
}

/// Parses the address of a Workload API socket.
fn workload_api_socket(agent: &Section<'_>, address: &str) -> Option<PathBuf> {
    let path = UNIX
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme))
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    if path.is_none() {
        agent.wrong(
            "trust_bundle_spiffe_workload_api",
            "only a Unix socket is believed: unix:///path/to/api.sock",
        );
    }
    path
}

fn rebootstrap(agent: &Section<'_>, overrides: &Overrides) -> Rebootstrap {
    let delay = agent.duration("rebootstrap_delay", Duration::ZERO..=MOST_REBOOTSTRAP_DELAY);
    let mode = agent.choice("rebootstrap_mode", &RebootstrapMode::NAMES);
    let delay = overrides
        .rebootstrap_delay
        .or(delay)
        .unwrap_or(DEFAULT_REBOOTSTRAP_DELAY);
    match overrides.rebootstrap_mode.or(mode).unwrap_or_default() {
        RebootstrapMode::Never => Rebootstrap::Never,
        RebootstrapMode::Auto => Rebootstrap::Auto(delay),
        RebootstrapMode::Always => Rebootstrap::Always(delay),
    }
}
