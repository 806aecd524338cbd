//! The settings of the node attestor `x509pop`.

use std::path::PathBuf;

use countersign_config::Section;

use crate::node_attestor::path_template::PathTemplate;
use crate::node_attestor::x509pop::field_kind;

const DEFAULT_INTERMEDIATES: usize = 4;
/// A longer chain is a mistake.
const MOST_INTERMEDIATES: i64 = 32;
/// The sizes that can be verified at all; the largest is the default.
const RSA_BITS: std::ops::RangeInclusive<i64> = 2_048..=8_192;
const DEFAULT_RSA_BITS: usize = 8_192;
/// The prefix of SVIDs that are exchanged for those of node agents.
const DEFAULT_PREFIX: &str = "/spire-exchange/";
const DEFAULT_TEMPLATE: &str = "/{{ .PluginName }}/{{ .Fingerprint }}";
const DEFAULT_SPIFFE_TEMPLATE: &str = "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}";

/// The settings of the attestor. The files of authorities are read when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct X509PopChoice {
    /// The authorities of the certificates of nodes.
    pub(crate) mode: X509PopMode,
    /// The path of the node agent's ID after `/spire/agent`.
    pub(crate) path_template: PathTemplate,
    /// The most intermediate certificates that a node may send.
    pub(crate) max_intermediates: usize,
    /// The longest RSA key, in bits.
    pub(crate) max_rsa_key_size: usize,
    /// Whether one of the certificate's IP addresses must be the one that the node calls from.
    pub(crate) verify_client_ip: bool,
}

/// The authorities of the certificates of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum X509PopMode {
    /// The authorities in these files.
    ExternalPki(Vec<PathBuf>),
    /// The trust domain itself, for paths that begin with this; it ends with `/`.
    Spiffe(String),
}

pub(super) fn choice(data: &Section<'_>) -> Option<X509PopChoice> {
    let mode = mode(data);
    let spiffe = matches!(mode, Some(X509PopMode::Spiffe(_)));
    let read = |text: &str| PathTemplate::parse(text, field_kind);
    let path_template = match data.string("agent_path_template") {
        Some(_) => data.parsed("agent_path_template", read),
        None if spiffe => read(DEFAULT_SPIFFE_TEMPLATE).ok(),
        None => read(DEFAULT_TEMPLATE).ok(),
    };
    let number = |key: &str, bounds, default| {
        let number = data.integer(key, bounds);
        number.map_or(default, |n| usize::try_from(n).unwrap_or(default))
    };
    let max_intermediates = number(
        "max_intermediates",
        1..=MOST_INTERMEDIATES,
        DEFAULT_INTERMEDIATES,
    );
    let max_rsa_key_size = number("max_rsa_key_size", RSA_BITS, DEFAULT_RSA_BITS);
    let verify_client_ip = data.bool("verify_client_ip").unwrap_or(false);
    Some(X509PopChoice {
        mode: mode?,
        path_template: path_template?,
        max_intermediates,
        max_rsa_key_size,
        verify_client_ip,
    })
}

fn mode(data: &Section<'_>) -> Option<X509PopMode> {
    let (one, many) = (data.path("ca_bundle_path"), data.list("ca_bundle_paths"));
    let prefix = prefix(data);
    let spiffe = data.choice("mode", &[("external_pki", false), ("spiffe", true)]);
    if spiffe == Some(true) {
        if one.is_some() || many.is_some() {
            data.wrong(
                "mode",
                "ca_bundle_path and ca_bundle_paths have no place in the mode \"spiffe\"",
            );
            return None;
        }
        return Some(X509PopMode::Spiffe(prefix));
    }
    match (one, many) {
        (Some(_), Some(_)) => {
            data.wrong(
                "ca_bundle_paths",
                "it can't stand beside ca_bundle_path: keep one of the two",
            );
            None
        }
        (Some(path), None) => Some(X509PopMode::ExternalPki(vec![path])),
        (None, Some(paths)) if !paths.is_empty() => Some(X509PopMode::ExternalPki(
            paths.into_iter().map(PathBuf::from).collect(),
        )),
        _ => {
            data.require(&["ca_bundle_path"]);
            None
        }
    }
}

/// With a slash at its end, as SPIRE adds it; an empty one stands for every path.
fn prefix(data: &Section<'_>) -> String {
    let (documented, coded) = (data.string("svid_prefix"), data.string("spiffe_prefix"));
    if documented.is_some() && coded.is_some() {
        data.wrong(
            "spiffe_prefix",
            "it is another name of svid_prefix: keep one of the two",
        );
    }
    let mut prefix = documented
        .or(coded)
        .unwrap_or_else(|| DEFAULT_PREFIX.into());
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    if !prefix.starts_with('/') {
        data.wrong(
            "svid_prefix",
            "it is the beginning of a path: begin it with /",
        );
    }
    prefix
}
