//! A stand-in for the server in tests: the services that a node agent calls, over real mTLS, with the rules of the wire
//! contract (A.5, C.1, C.2, C.6, D.1) and nothing else. The daemons meet each other in the end-to-end tests.

mod agent;
mod bundle;
mod entry;
mod svid;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use countersign_identity::bundle::Bundles;
use countersign_identity::tls::{ALPN_H2, ClientAuth, ExpectedPeer, TlsContext, TlsVersions};
use countersign_identity::{Bundle, SpiffeId, UnixTime};
use countersign_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use countersign_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use countersign_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use countersign_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::clock::{Clock as _, RustlsTime, TestClock};
use countersign_transport::serve::Http;
use countersign_transport::{Connection, Presented, ServeOptions, serve_tls};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request, Status};

use crate::test_ca::{TestCa, trust_domain};

/// As SPIRE's server lets connections go (B.1).
const CONNECTION_AGE: Duration = Duration::from_secs(180);

/// What the server knows of the one node.
pub(crate) struct NodeRecord {
    pub(crate) id: SpiffeId,
    pub(crate) current: String,
    pub(crate) pending: Option<String>,
    pub(crate) reattestable: bool,
}

/// Everything that tests look at and change.
pub(crate) struct ServerState {
    pub(crate) ca: TestCa,
    pub(crate) bundle: Bundle,
    pub(crate) federated: HashMap<String, Bundle>,
    pub(crate) tokens: HashSet<String>,
    pub(crate) node: Option<NodeRecord>,
    pub(crate) entries: BTreeMap<String, types::Entry>,
    pub(crate) page_size: usize,
    pub(crate) svid_ttl: Duration,
    pub(crate) agent_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    /// Entries that are not signed for.
    pub(crate) refused: HashSet<String>,
    /// Methods that fail with this status.
    pub(crate) failing: HashMap<&'static str, Status>,
    /// Methods that fail with this status the next time.
    pub(crate) failing_once: HashMap<&'static str, Status>,
    /// How many CSRs were in each signing request.
    pub(crate) signed: Vec<usize>,
    /// How often each method was called.
    pub(crate) calls: HashMap<&'static str, usize>,
    /// Ids asked for by sync requests, page by page.
    pub(crate) fetched: Vec<Vec<String>>,
    pub(crate) version: String,
    /// From where the node agent has called: one address for each connection.
    pub(crate) connections: HashSet<SocketAddr>,
    /// Added to the clock by which this server signs.
    pub(crate) ahead: Duration,
}

/// The services, and the thing that runs them.
#[derive(Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<ServerState>>,
    clock: TestClock,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap()
    }

    fn now(&self) -> UnixTime {
        self.clock.now().after(self.state().ahead)
    }

    /// Counts the call, and fails it if a test wants that.
    fn called(&self, method: &'static str) -> Result<(), Status> {
        let mut state = self.state();
        *state.calls.entry(method).or_default() += 1;
        let once = state.failing_once.remove(method);
        once.or_else(|| state.failing.get(method).cloned())
            .map_or(Ok(()), Err)
    }

    /// The agent authorizer (A.5).
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let connection = request.extensions().get::<Arc<Connection>>().unwrap();
        let peer = connection
            .peer
            .as_ref()
            .ok_or_else(|| Status::permission_denied("no certificate"))?;
        let mut state = self.state();
        state.connections.insert(peer.address);
        let Some(node) = state.node.as_mut().filter(|node| node.id == peer.id) else {
            return Err(denied(Reason::AgentNotAttested));
        };
        if node.current.is_empty() {
            return Err(denied(Reason::AgentBanned));
        }
        if node.current == peer.serial {
            return Ok(());
        }
        if node.pending.as_ref() == Some(&peer.serial) {
            node.current = node.pending.take().unwrap();
            return Ok(());
        }
        Err(denied(Reason::AgentNotActive))
    }
}

/// Callers are verified by the bundle as it is now.
impl Bundles for Shared {
    fn bundle(&self, _: &str) -> Option<Arc<Bundle>> {
        Some(Arc::new(self.state().bundle.clone()))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

pub(crate) fn denied(reason: Reason) -> Status {
    let details = types::PermissionDeniedDetails {
        reason: reason.into(),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/spire.api.types.PermissionDeniedDetails".into(),
        value: details.encode_to_vec(),
    };
    let status = tonic_types::Status {
        code: 7,
        message: "denied".into(),
        details: vec![any],
    };
    Status::with_details(
        Code::PermissionDenied,
        "denied",
        status.encode_to_vec().into(),
    )
}

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not part of this stand-in"))
}

pub(crate) struct TestServer {
    shared: Shared,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start(clock: &TestClock) -> Self {
        let ca = TestCa::new(clock.now());
        let state = ServerState {
            bundle: ca.bundle(),
            ca,
            federated: HashMap::new(),
            tokens: HashSet::from(["token".to_owned()]),
            node: None,
            entries: BTreeMap::new(),
            page_size: 500,
            svid_ttl: Duration::from_secs(3600),
            agent_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            refused: HashSet::new(),
            failing: HashMap::new(),
            failing_once: HashMap::new(),
            signed: Vec::new(),
            calls: HashMap::new(),
            fetched: Vec::new(),
            version: String::new(),
            connections: HashSet::new(),
            ahead: Duration::ZERO,
        };
        let shared = Shared {
            state: Arc::new(Mutex::new(state)),
            clock: clock.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(shared, listener)
    }

    fn serve(shared: Shared, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (stop, clock) = (CancellationToken::new(), shared.clock.clone());
        let presented = presented(&shared, &clock);
        let router = Routes::new(AgentServer::new(shared.clone()))
            .add_service(EntryServer::new(shared.clone()))
            .add_service(SvidServer::new(shared.clone()))
            .add_service(BundleServer::new(shared.clone()))
            .into_axum_router();
        let (_, identity) = watch::channel(Some(Arc::new(presented)));
        let options = ServeOptions::new(Http::Http2Only, clock.shared()).max_age(CONNECTION_AGE);
        let served = stop.clone();
        let task = tokio::spawn(async move {
            serve_tls(listener, Arc::new(identity), router, options, served).await;
        });
        Self {
            shared,
            address,
            stop,
            task,
        }
    }

    /// The same server at another address.
    pub(crate) async fn elsewhere(shared: Shared) -> Self {
        Self::serve(shared, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same server at this address.
    pub(crate) async fn at(shared: Shared, address: SocketAddr) -> Self {
        Self::serve(shared, TcpListener::bind(address).await.unwrap())
    }

    /// Another server on the same port: set up anew, with another authority.
    pub(crate) async fn set_up_anew(self) -> Self {
        let address = self.address;
        let shared = self.stop().await;
        let ca = TestCa::new(shared.clock.now());
        {
            let mut state = shared.state();
            state.bundle = ca.bundle();
            state.ca = ca;
            state.node = None;
        }
        Self::serve(shared, TcpListener::bind(address).await.unwrap())
    }

    /// The same server after a restart, on the same port.
    pub(crate) async fn restart(self) -> Self {
        let address = self.address;
        let shared = self.stop().await;
        Self::serve(shared, TcpListener::bind(address).await.unwrap())
    }

    pub(crate) async fn stop(self) -> Shared {
        self.stop.cancel();
        self.task.await.unwrap();
        self.shared
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.shared.state()
    }
}

fn presented(shared: &Shared, clock: &TestClock) -> Presented {
    let id = trust_domain().server_id();
    let svid = shared
        .state()
        .ca
        .issue(&id, Duration::from_secs(12 * 3600), clock.now());
    let bundles = Arc::new(shared.clone());
    let tls = TlsContext::new(bundles, RustlsTime::shared(clock.shared()));
    let config = tls
        .server(
            &svid,
            ClientAuth::Optional,
            ExpectedPeer::Anyone,
            TlsVersions::From12,
            &[ALPN_H2],
        )
        .unwrap();
    Presented {
        config: Arc::new(config),
        id,
        kid: svid.kid(),
        not_after: svid.not_after(),
    }
}
