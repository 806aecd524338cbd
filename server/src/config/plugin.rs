//! The `plugins` section: the built-in plugin of each kind, and its files.

use std::path::{Path, PathBuf};

use countersign_ca::upstream::{DiskFiles, SpireSettings};
use countersign_config::{Document, Plugin, Section};

pub(crate) mod x509pop;

/// The data store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// In memory: gone with the process.
    Memory,
    /// An embedded database in this directory.
    Sled(PathBuf),
}

/// The key manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyManagerChoice {
    /// In memory: a new authority at each start.
    Memory,
    /// One file per key in this folder.
    Disk(PathBuf),
}

/// A node attestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeAttestorChoice {
    /// A token that an admin created, good for one use.
    JoinToken,
    /// Proof of possession of a certificate's key.
    X509Pop(x509pop::X509PopChoice),
}

/// The upstream authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamChoice {
    /// A certificate and its key in files.
    Disk(DiskFiles),
    /// An upstream server.
    Spire(SpireSettings),
}

/// Where data goes on the disk, as the plugins and `data_dir` say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) store: StoreChoice,
    pub(super) key_manager: KeyManagerChoice,
}

/// The folder for keys in the `directory` of the key manager.
const KEYS_FOLDER: &str = "keys";

/// A data store whose directory may still have to come from `data_dir`.
enum StoreKind {
    Memory,
    Sled(Option<PathBuf>),
}

pub(super) fn storage(
    document: &Document,
    server: &Section<'_>,
    data_dir: Option<PathBuf>,
) -> Option<Storage> {
    let keys = document
        .required_plugin("KeyManager")
        .and_then(|plugin| key_manager(&plugin));
    let store = store(document);
    let (key_manager, key_folder) = keys?;
    let data_dir = data_dir.or_else(|| {
        // Old SPIRE configurations have one directory only, in the key manager.
        let folder = key_folder?;
        server.warn(
            "data_dir",
            format!(
                "data_dir is not set: the store goes to {} too",
                folder.display()
            ),
        );
        Some(folder)
    });
    let store = match (store?, data_dir) {
        (StoreKind::Memory, _) => StoreChoice::Memory,
        (StoreKind::Sled(Some(path)), _) => StoreChoice::Sled(path),
        (StoreKind::Sled(None), Some(data_dir)) => StoreChoice::Sled(data_dir),
        (StoreKind::Sled(None), None) => {
            server.wrong(
                "data_dir",
                "it is required, unless the DataStore is \"memory\"",
            );
            return None;
        }
    };
    Some(Storage { store, key_manager })
}

/// The key manager, and the folder that replaces a missing `data_dir`.
fn key_manager(plugin: &Plugin<'_>) -> Option<(KeyManagerChoice, Option<PathBuf>)> {
    match plugin.name {
        "memory" => Some((KeyManagerChoice::Memory, None)),
        "disk" => {
            let (keys_path, directory) =
                (plugin.data.path("keys_path"), plugin.data.path("directory"));
            match (keys_path, directory) {
                (Some(_), Some(_)) => {
                    plugin.data.wrong(
                        "directory",
                        "it can't stand beside keys_path: keep one of the two",
                    );
                    None
                }
                (Some(path), None) => Some((KeyManagerChoice::Disk(folder_for(&path)), None)),
                (None, Some(directory)) => Some((
                    KeyManagerChoice::Disk(directory.join(KEYS_FOLDER)),
                    Some(directory),
                )),
                (None, None) => {
                    plugin.data.require(&["keys_path"]);
                    None
                }
            }
        }
        other => unknown(plugin, other),
    }
}

/// SPIRE's `keys_path` names one file, such as `data/keys.json`; the keys here have a file each, in `data/keys/`.
fn folder_for(keys_path: &Path) -> PathBuf {
    keys_path.with_extension("")
}

fn store(document: &Document) -> Option<StoreKind> {
    let Some(plugin) = document.single_plugin("DataStore") else {
        return Some(StoreKind::Sled(None));
    };
    match plugin.name {
        "memory" => Some(StoreKind::Memory),
        "sled" => Some(StoreKind::Sled(plugin.data.path("path"))),
        "sql" => sql(&plugin),
        other => unknown(&plugin, other),
    }
}

fn sql(plugin: &Plugin<'_>) -> Option<StoreKind> {
    plugin.data.require(&["database_type"]);
    match plugin.data.string("database_type")?.as_str() {
        "sqlite3" => {
            plugin.data.warn(
                "database_type",
                "there is no SQLite here: the embedded store in data_dir takes its place, and starts empty; \
                 connection_string is ignored",
            );
            Some(StoreKind::Sled(None))
        }
        "postgres" => {
            plugin.data.wrong(
                "database_type",
                "\"postgres\" is not supported yet: use the DataStore \"sled\"",
            );
            None
        }
        other => {
            plugin.data.wrong(
                "database_type",
                format!("{other:?} is not supported: use \"sqlite3\", or the DataStore \"sled\""),
            );
            None
        }
    }
}

pub(super) fn node_attestors(document: &Document) -> Vec<NodeAttestorChoice> {
    let plugins = document.plugins("NodeAttestor");
    plugins
        .iter()
        .filter_map(|plugin| match plugin.name {
            "join_token" => Some(NodeAttestorChoice::JoinToken),
            "x509pop" => x509pop::choice(&plugin.data).map(NodeAttestorChoice::X509Pop),
            other => unknown(plugin, other),
        })
        .collect()
}

pub(super) fn upstream(document: &Document) -> Option<UpstreamChoice> {
    let plugin = document.single_plugin("UpstreamAuthority")?;
    match plugin.name {
        "disk" => disk(&plugin.data).map(UpstreamChoice::Disk),
        "spire" => spire(&plugin.data).map(UpstreamChoice::Spire),
        other => unknown(&plugin, other),
    }
}

fn disk(data: &Section<'_>) -> Option<DiskFiles> {
    data.require(&["cert_file_path", "key_file_path"]);
    let (certificate, key) = (data.path("cert_file_path"), data.path("key_file_path"));
    Some(DiskFiles {
        certificate: certificate?,
        key: key?,
        bundle: data.path("bundle_file_path"),
    })
}

fn spire(data: &Section<'_>) -> Option<SpireSettings> {
    data.require(&["server_address", "server_port", "workload_api_socket"]);
    let (address, port, workload_api) = (
        data.string("server_address"),
        data.port("server_port"),
        data.path("workload_api_socket"),
    );
    if port == Some(0) {
        data.wrong("server_port", "no server listens on port 0");
    }
    let (address, port) = (address?, port?);
    // An IPv6 address may stand in brackets or not.
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let target = if bare.contains(':') {
        format!("[{bare}]:{port}")
    } else {
        format!("{bare}:{port}")
    };
    Some(SpireSettings {
        target,
        workload_api: workload_api?,
        key_exchange: super::key_exchange(&data.section("experimental")),
    })
}

/// A plugin that is in the registry of keys but not handled here: an error, so that the first test finds it.
fn unknown<T>(plugin: &Plugin<'_>, name: &str) -> Option<T> {
    plugin.data.wrong(
        "",
        format!("the plugin {name:?} is in the registry of keys only: a fault of this program"),
    );
    None
}
