//! The API through generated clients, with the real store, index and authority behind it. Who calls is said by the
//! connection that each request carries, as the listeners attach it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use countersign_ca::authority::{JwtSettings, Rotation, ServerSvid, Settings};
use countersign_ca::keymanager::MemoryKeyManager;
use countersign_daemon::logs::Level;
use countersign_identity::csr::Csr;
use countersign_identity::issue::Subject;
use countersign_identity::node::Credential;
use countersign_identity::tls::KeyExchange;
use countersign_identity::verify::{VerifiedLeaf, verify_peer};
use countersign_identity::{KeyType, Node, PrivateKey, SelectorSet, UnixTime};
use countersign_proto::grpc::health::v1::health_client::HealthClient;
use countersign_proto::spire::api::server::agent::v1 as agents;
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::types;
use countersign_transport::clock::TestClock;
use countersign_transport::{Clock as _, Connection, Peer, UnixCaller};
use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::{Service, ServiceExt as _};

use super::*;
use crate::federation::Follower;
use crate::node_attestor::{JoinToken, NodeAttestor};

mod access;
mod agent;
mod attest;
mod audit;
mod bundle;
mod downstream;
mod entry;
mod federation;
mod hostile;
mod jwt;
mod local;
mod local_authority;
mod mint;
mod outage;
mod svid;
mod sync;

const START: u64 = 1_800_000_000;

/// A server without listeners.
struct Fixture {
    clock: TestClock,
    store: Store,
    index: Index,
    api: Api,
}

/// A way into the API for one caller.
#[derive(Clone)]
struct TestCaller {
    router: Router,
    connection: Arc<Connection>,
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    td().id_with_path(path).unwrap()
}

fn wire_id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    }
}

fn csr() -> bytes::Bytes {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    Csr::make(&key, None).unwrap().into()
}

impl Fixture {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these attestors besides join tokens, and without rate limits.
    async fn with(attestors: &[Arc<dyn NodeAttestor>]) -> Self {
        Self::over(Store::in_memory(), attestors).await
    }

    /// With this store.
    async fn over(store: Store, attestors: &[Arc<dyn NodeAttestor>]) -> Self {
        Self::whole(store, Some(jwt_settings()), attestors, None).await
    }

    /// A server that signs no JWT-SVIDs.
    async fn without_jwt() -> Self {
        Self::whole(Store::in_memory(), None, &[], None).await
    }

    /// With an upstream authority that its API knows of.
    async fn below(upstream: Arc<dyn UpstreamAuthority>) -> Self {
        let store = Store::in_memory();
        Self::whole(store, Some(jwt_settings()), &[], Some(upstream)).await
    }

    async fn whole(
        store: Store,
        jwt: Option<JwtSettings>,
        attestors: &[Arc<dyn NodeAttestor>],
        upstream: Option<Arc<dyn UpstreamAuthority>>,
    ) -> Self {
        let clock = TestClock::fixed(UnixTime::from_secs(START));
        let settings = Settings {
            trust_domain: td(),
            ca_ttl: Duration::from_secs(86_400),
            ca_key_type: KeyType::EcP256,
            ca_subject: Subject::authority(),
            x509_svid_ttl: Duration::from_secs(3_600),
            agent_ttl: Duration::from_secs(3_600),
            jwt,
        };
        let keys = Arc::new(MemoryKeyManager::new());
        let rotation = Rotation::open(settings, keys, store.clone(), "s".into(), clock.shared());
        let rotation = rotation.await.unwrap();
        let authority = rotation.authority();
        tokio::spawn(rotation.run(CancellationToken::new()));
        let index = Index::load(store.clone()).await.unwrap();
        let bundles = Arc::new(index.clone());
        let svid = ServerSvid::open(
            authority.clone(),
            bundles,
            Arc::default(),
            KeyExchange::default(),
            clock.shared(),
        );
        let svid = svid.await.unwrap();
        tokio::spawn(index.follow());
        let tokens: Arc<dyn NodeAttestor> =
            Arc::new(JoinToken::new(td(), store.clone(), clock.shared()));
        let (follower, refresher) = Follower::new(
            td(),
            Vec::new(),
            store.clone(),
            index.clone(),
            KeyExchange::default(),
            clock.shared(),
        );
        tokio::spawn(follower.run(CancellationToken::new()));
        let api = Api::new(Parts {
            refresher,
            trust_domain: td(),
            store: store.clone(),
            index: index.clone(),
            authority,
            upstream,
            attestors: attestors.iter().cloned().chain([tokens]).collect(),
            admin_ids: HashSet::from([id("/configured-admin")]),
            agent_id_selector: false,
            audit_log: false,
            rate_limits: RateLimits {
                attestation: false,
                signing: false,
            },
            levels: Levels::detached(Level::Info),
            server_svid: svid.chain(),
            clock: clock.shared(),
        });
        Self {
            clock,
            store,
            index,
            api,
        }
    }

    /// On the server's own socket.
    fn local(&self) -> TestCaller {
        let caller = UnixCaller {
            pid: None,
            uid: 0,
            gid: 0,
            process: None,
        };
        let connection = Connection::unix(caller, CancellationToken::new());
        TestCaller {
            router: self.api.local(),
            connection: Arc::new(connection),
        }
    }

    /// Over the network, without a certificate.
    fn stranger(&self) -> TestCaller {
        self.network(None)
    }

    /// Over the network, with a certificate that the handshake accepted.
    fn peer(&self, id: SpiffeId, serial: &str) -> TestCaller {
        self.peer_until(id, serial, self.clock.now().after(Duration::from_secs(60)))
    }

    fn peer_until(&self, id: SpiffeId, serial: &str, not_after: UnixTime) -> TestCaller {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        self.network(Some(Peer {
            id,
            kid: countersign_identity::SigningKey::kid(&key),
            serial: serial.into(),
            chain: Vec::new(),
            not_after,
            address: address(),
            cut: CancellationToken::new(),
        }))
    }

    /// Over the network, without a certificate, from this address.
    fn from(&self, address: SocketAddr) -> TestCaller {
        self.network_from(address, None)
    }

    fn network(&self, peer: Option<Peer>) -> TestCaller {
        self.network_from(address(), peer)
    }

    fn network_from(&self, address: SocketAddr, peer: Option<Peer>) -> TestCaller {
        let connection = Connection {
            address: countersign_transport::Address::Tcp(address),
            peer: peer.map(Arc::new),
            presented: None,
            cut: CancellationToken::new(),
        };
        TestCaller {
            router: self.api.network(),
            connection: Arc::new(connection),
        }
    }

    /// A node agent that was attested, with these selectors.
    async fn agent(&self, name: &str, selectors: &[&str]) -> TestCaller {
        let node = node(name, selectors);
        let written = self.store.node_attested(&node).await.unwrap();
        self.index.visible(written).await.unwrap();
        self.peer(node.id, "1")
    }

    fn bundle(&self) -> Arc<countersign_identity::Bundle> {
        countersign_identity::bundle::Bundles::bundle(&self.index, "example.org").unwrap()
    }

    /// The leaf of an SVID from the wire, verified against the server's bundle.
    fn verified(&self, svid: &types::X509svid) -> VerifiedLeaf {
        let chain: Vec<CertificateDer<'_>> = svid
            .cert_chain
            .iter()
            .map(|der| der.to_vec().into())
            .collect();
        verify_peer(&chain, &self.index, self.clock.now()).unwrap()
    }
}

fn jwt_settings() -> JwtSettings {
    JwtSettings {
        key_type: KeyType::EcP256,
        svid_ttl: Duration::from_secs(300),
        issuer: None,
    }
}

fn address() -> SocketAddr {
    "127.0.0.1:4711".parse().unwrap()
}

fn node(name: &str, selectors: &[&str]) -> Node {
    Node {
        id: id(&format!("/spire/agent/x509pop/{name}")),
        attestation_type: "x509pop".into(),
        current: Some(Credential {
            serial: "1".into(),
            expires_at: UnixTime::from_secs(START + 60),
        }),
        pending: None,
        can_reattest: false,
        selectors: selectors
            .iter()
            .map(|text| countersign_identity::Selector::parse(text).unwrap())
            .collect::<SelectorSet>(),
        agent_version: String::new(),
    }
}

impl Service<http::Request<tonic::body::Body>> for TestCaller {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        request
            .extensions_mut()
            .insert(Arc::clone(&self.connection));
        Box::pin(self.router.clone().oneshot(request.map(Body::new)))
    }
}

impl TestCaller {
    fn agents(&self) -> AgentClient<Self> {
        AgentClient::new(self.clone())
    }

    fn entries(&self) -> EntryClient<Self> {
        EntryClient::new(self.clone())
    }

    fn svids(&self) -> SvidClient<Self> {
        SvidClient::new(self.clone())
    }

    fn authorities(&self) -> LocalAuthorityClient<Self> {
        LocalAuthorityClient::new(self.clone())
    }

    fn bundles(&self) -> BundleClient<Self> {
        BundleClient::new(self.clone())
    }

    fn health(&self) -> HealthClient<Self> {
        HealthClient::new(self.clone())
    }
}

/// A sound entry below a parent.
fn entry(path: &str, parent: &str) -> types::Entry {
    types::Entry {
        spiffe_id: Some(wire_id(path)),
        parent_id: Some(wire_id(parent)),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

/// Makes entries, which must all be fine.
async fn create(caller: &TestCaller, entries: Vec<types::Entry>) -> Vec<types::Entry> {
    let request = countersign_proto::spire::api::server::entry::v1::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = caller
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results
        .into_iter()
        .map(|result| {
            assert_eq!(result.status.unwrap(), status::ok());
            result.entry.unwrap()
        })
        .collect()
}

fn code(status: &types::Status) -> Code {
    Code::from_i32(status.code)
}
