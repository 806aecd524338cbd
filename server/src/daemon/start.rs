//! Builds a server from its configuration.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_ca::authority::{Rotation, RotationError, ServerSvid, ServerSvidError};
use countersign_ca::keymanager::{DiskKeyManager, KeyManager, KeyManagerError, MemoryKeyManager};
use countersign_ca::upstream::{Disk, DiskError, Spire, UpstreamAuthority};
use countersign_daemon::logs::Levels;
use countersign_daemon::operator_endpoints::EndpointError;
use countersign_daemon::otlp::Otlp;
use countersign_identity::tls::KeyExchange;
use countersign_identity::{TrustDomain, UnixTime};
use countersign_store::backend::sled::{OpenError, Sled};
use countersign_store::{Store, StoreError};
use countersign_transport::SharedClock;
use countersign_transport::error::BoxError;
use countersign_transport::file;
use countersign_transport::unix::{Access, BindError, Socket};
use tokio::net::TcpListener;

use super::{Bound, BundleEndpoint, observe};
use crate::api::{Api, Parts};
use crate::config::x509pop::{X509PopChoice, X509PopMode};
use crate::config::{
    KeyManagerChoice, NodeAttestorChoice, ServerConfig, StoreChoice, UpstreamChoice,
};
use crate::federation::{
    self, CertificateFile, EndpointCertificate, EndpointSettings, Follower, InvalidCertificate,
};
use crate::index::Index;
use crate::jobs::Pruner;
use crate::metrics;
use crate::node_attestor::x509pop::{self, InvalidRoots, Roots};
use crate::node_attestor::{Attestors, JoinToken, NodeAttestor, X509Pop};

/// 2026-01-01. An earlier time means that the clock was never set, as this program did not exist then.
const CLOCK_FLOOR: UnixTime = UnixTime::from_secs(1_767_225_600);
/// The file in the store's directory with the server ID, under which its journal is stored.
const SERVER_ID_FILE: &str = "server-id";
/// The owner of keys on the disk if the store is in memory: the server ID is lost with it.
const MEMORY_OWNER: &str = "memory";
/// The longest server ID, in bytes.
const MAX_SERVER_ID: usize = 64;

/// Why the server did not start. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The machine's clock was never set.
    #[error("this machine's clock says {now}, which is long ago: set the clock, then start again")]
    Clock {
        /// The time that it shows.
        now: UnixTime,
    },
    /// The store could not be opened.
    #[error(transparent)]
    OpenStore(#[from] OpenError),
    /// The store could not be read.
    #[error("could not load the store")]
    Store(#[from] StoreError),
    /// The file with this server's ID can't be used.
    #[error("could not use {}: check that this user may read and write there", path.display())]
    ServerId {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key manager could not be opened.
    #[error(transparent)]
    KeyManager(#[from] KeyManagerError),
    /// The files of the upstream authority can't be used.
    #[error("could not use the upstream authority \"disk\"")]
    UpstreamDisk(#[from] DiskError),
    /// The authorities could not be opened.
    #[error("could not open the certificate authority")]
    Authority(#[from] RotationError),
    /// The server has no certificate for itself.
    #[error("could not make the server's own certificate")]
    ServerSvid(#[from] ServerSvidError),
    /// A node attestor's authorities could not be loaded.
    #[error("could not configure the node attestor \"x509pop\"")]
    X509Pop(#[from] InvalidRoots),
    /// The address does not resolve.
    #[error(
        "could not resolve bind_address {address:?}: check the name, or use an IP address such as 0.0.0.0"
    )]
    Resolve {
        /// As it was configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The port could not be bound.
    #[error("could not listen on {address}: {}", bind_advice(source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The port of the bundle endpoint could not be bound.
    #[error(
        "could not listen on {address} for the bundle endpoint: check address and port of federation.bundle_endpoint, \
         and that no other process uses the port"
    )]
    BindBundleEndpoint {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The bundle endpoint has no certificate.
    #[error("the bundle endpoint has no certificate")]
    Certificate(#[from] InvalidCertificate),
    /// The admin socket could not be opened.
    #[error("could not open the admin socket")]
    Socket(#[from] BindError),
    /// The endpoints for operators could not be opened.
    #[error("could not answer operators")]
    Operate(#[from] EndpointError),
    /// A step on a blocking thread panicked.
    #[error("a step of the start did not finish")]
    Step(#[source] BoxError),
}

fn bind_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses this port. Stop it, or set another bind_port (or -serverPort)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address. Set another bind_address, such as 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not use ports below 1024. Set another bind_port, or grant CAP_NET_BIND_SERVICE"
        }
        _ => "check bind_address and bind_port",
    }
}

/// Opens everything and binds the addresses. Nothing is served yet. `levels` changes the log level of this process.
///
/// # Errors
/// [`StartError`]; everything that was opened is closed again.
pub async fn build(
    config: &ServerConfig,
    levels: Levels,
    otlp: Option<&Otlp>,
    clock: SharedClock,
) -> Result<Bound, StartError> {
    let now = clock.now();
    if now < CLOCK_FLOOR {
        return Err(StartError::Clock { now });
    }
    // The store first: its lock is what keeps a second server with the same configuration away.
    let (store, server_id) = open_store(config.store.clone()).await?;
    let keys_owner = match config.store {
        StoreChoice::Memory => MEMORY_OWNER.to_owned(),
        StoreChoice::Sled(_) => server_id.clone(),
    };
    let keys = open_keys(config.key_manager.clone(), keys_owner).await?;
    let tcp = bind(&config.bind_address, config.bind_port).await?;
    let socket = Socket::bind(&config.socket_path, Access::ADMIN).await?;
    let operators = config.operators.bind(metrics::ALL, otlp).await?;
    observe::begin();

    let settings = config.authority.clone();
    let trust_domain = settings.trust_domain.clone();
    let upstream = open_upstream(config.upstream.clone(), &trust_domain, &clock).await?;
    let rotation = Rotation::open_with_upstream(
        settings,
        keys,
        store.clone(),
        server_id,
        Arc::clone(&clock),
        upstream.clone(),
    )
    .await?;
    let index = Index::load(store.clone()).await?;
    let bundles = Arc::new(index.clone());
    let admins = Arc::new(config.admin_ids.clone());
    let svid = ServerSvid::open(
        rotation.authority(),
        bundles,
        admins,
        config.key_exchange,
        Arc::clone(&clock),
    )
    .await?;
    let bundle_endpoint = match &config.federation.endpoint {
        Some(settings) => Some(
            bundle_endpoint(
                settings,
                &svid,
                &index,
                &trust_domain,
                config.key_exchange,
                &clock,
            )
            .await?,
        ),
        None => None,
    };
    let (follower, refresher) = Follower::new(
        trust_domain.clone(),
        config.federation.relationships.clone(),
        store.clone(),
        index.clone(),
        config.key_exchange,
        Arc::clone(&clock),
    );
    let attestors = attestors(
        &config.node_attestors,
        &trust_domain,
        &index,
        &store,
        &clock,
    )?;
    let api = Api::new(Parts {
        trust_domain,
        store: store.clone(),
        index: index.clone(),
        authority: rotation.authority(),
        upstream: upstream.clone(),
        attestors,
        refresher,
        admin_ids: config.admin_ids.clone(),
        agent_id_selector: config.agent_id_selector,
        audit_log: config.audit_log,
        rate_limits: config.rate_limits,
        levels,
        server_svid: svid.chain(),
        clock: Arc::clone(&clock),
    });
    Ok(Bound {
        operators,
        tcp_address: tcp.local_addr().map_err(|e| StartError::Step(e.into()))?,
        tcp,
        socket,
        pruner: config
            .prune_nodes
            .map(|prune| Pruner::new(prune, store.clone(), index.clone(), Arc::clone(&clock))),
        store,
        index,
        rotation,
        upstream,
        svid,
        follower,
        bundle_endpoint,
        agents: api.network(),
        admins: api.local(),
        clock,
    })
}

/// Binds the bundle endpoint and loads its certificate.
async fn bundle_endpoint(
    settings: &EndpointSettings,
    svid: &ServerSvid,
    index: &Index,
    trust_domain: &TrustDomain,
    key_exchange: KeyExchange,
    clock: &SharedClock,
) -> Result<BundleEndpoint, StartError> {
    let address = SocketAddr::new(settings.address, settings.port);
    let bound = |source| StartError::BindBundleEndpoint { address, source };
    let listener = TcpListener::bind(address).await.map_err(bound)?;
    let (identity, certificate) = match &settings.certificate {
        EndpointCertificate::Svid => (svid.anonymous_identity(), None),
        EndpointCertificate::File(files) => {
            let id = trust_domain.server_id();
            let file =
                CertificateFile::open(files.clone(), id, key_exchange, Arc::clone(clock)).await?;
            (file.identity(), Some(file))
        }
    };
    Ok(BundleEndpoint {
        address: listener.local_addr().map_err(bound)?,
        listener,
        identity,
        certificate,
        router: federation::router(index.clone(), trust_domain.clone(), settings.refresh_hint),
    })
}

fn attestors(
    choices: &[NodeAttestorChoice],
    trust_domain: &TrustDomain,
    index: &Index,
    store: &Store,
    clock: &SharedClock,
) -> Result<Attestors, StartError> {
    let attestor = |choice: &NodeAttestorChoice| {
        let (td, clock) = (trust_domain.clone(), Arc::clone(clock));
        Ok(match choice {
            NodeAttestorChoice::JoinToken => {
                Arc::new(JoinToken::new(td, store.clone(), clock)) as Arc<dyn NodeAttestor>
            }
            NodeAttestorChoice::X509Pop(choice) => {
                let settings = x509pop_settings(choice)?;
                Arc::new(X509Pop::new(settings, td, Arc::new(index.clone()), clock))
            }
        })
    };
    choices.iter().map(attestor).collect()
}

fn x509pop_settings(choice: &X509PopChoice) -> Result<x509pop::X509PopSettings, InvalidRoots> {
    Ok(x509pop::X509PopSettings {
        mode: match &choice.mode {
            X509PopMode::ExternalPki(paths) => x509pop::Mode::ExternalPki(Roots::load(paths)?),
            X509PopMode::Spiffe(prefix) => x509pop::Mode::Spiffe {
                prefix: prefix.clone(),
            },
        },
        path_template: choice.path_template.clone(),
        max_intermediates: choice.max_intermediates,
        max_rsa_key_size: choice.max_rsa_key_size,
        verify_client_ip: choice.verify_client_ip,
    })
}

/// Opens the store, and reads the server ID beside it.
async fn open_store(choice: StoreChoice) -> Result<(Store, String), StartError> {
    blocking(move || match choice {
        StoreChoice::Memory => Ok((Store::in_memory(), new_server_id())),
        StoreChoice::Sled(folder) => {
            let store = Store::new(Arc::new(Sled::open(&folder)?));
            let path = folder.join(SERVER_ID_FILE);
            let id = server_id(&path).map_err(|source| StartError::ServerId { path, source })?;
            Ok((store, id))
        }
    })
    .await
}

async fn open_keys(
    choice: KeyManagerChoice,
    owner: String,
) -> Result<Arc<dyn KeyManager>, StartError> {
    blocking(move || {
        Ok(match choice {
            KeyManagerChoice::Memory => Arc::new(MemoryKeyManager::new()) as Arc<dyn KeyManager>,
            KeyManagerChoice::Disk(folder) => {
                let keys = DiskKeyManager::open(&folder)?;
                keys.claim(&owner)?;
                Arc::new(keys)
            }
        })
    })
    .await
}

async fn open_upstream(
    choice: Option<UpstreamChoice>,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Option<Arc<dyn UpstreamAuthority>>, StartError> {
    let (trust_domain, clock) = (trust_domain.clone(), Arc::clone(clock));
    match choice {
        None => Ok(None),
        Some(UpstreamChoice::Spire(settings)) => {
            Ok(Some(Arc::new(Spire::new(settings, trust_domain, clock))))
        }
        Some(UpstreamChoice::Disk(files)) => {
            blocking(move || Ok(Some(Arc::new(Disk::open(files, trust_domain, clock)?) as _))).await
        }
    }
}

async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(step)
        .await
        .map_err(|e| StartError::Step(e.into()))?
}

/// Reads the server ID, or creates it at the first start.
fn server_id(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if id.is_empty() || id.len() > MAX_SERVER_ID || !id.bytes().all(plain) {
                return Err(io::Error::other("it does not hold a server ID"));
            }
            Ok(id.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_server_id();
            file::write_atomically(path, format!("{id}\n").as_bytes(), file::PRIVATE)
                .map_err(io::Error::other)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

fn new_server_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

async fn bind(address: &str, port: u16) -> Result<TcpListener, StartError> {
    // An IPv6 address may stand in brackets, as SPIRE takes it.
    let host = address.trim_start_matches('[').trim_end_matches(']');
    let unresolved = |source| StartError::Resolve {
        address: address.to_owned(),
        source,
    };
    let resolved = tokio::net::lookup_host((host, port))
        .await
        .map_err(unresolved)?
        .next();
    let address =
        resolved.ok_or_else(|| unresolved(io::Error::other("no address has this name")))?;
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { address, source })
}
