//! A small mesh in one process: real certificates, real TLS, real sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use countersign::inbound::MeshListener;
use countersign::test::{self, Feed};
use countersign::{CallError, CalleeClient, Mesh, Reason, RefusedBy};
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::tls::{
    ALPN_H2, ALPN_HTTP11, ClientAuth, ExpectedPeer, TlsContext, TlsVersions,
};
use countersign_identity::{
    Bundle, BundleSet, KeyType, PrivateKey, SigningKey as _, SpiffeId, TrustDomain, UnixTime,
    X509Svid,
};
use countersign_mesh::Policy;
use countersign_transport::clock::{RustlsTime, TestClock};
use countersign_transport::connection::Address;
use countersign_transport::dial::TlsConnector;
use countersign_transport::{Connection, Peer, Presented, SharedClock};
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::forge::{Forge, TASKS};

/// The time in every world, in Unix seconds, unless a test moves it.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

/// A certificate authority of a trust domain.
pub(crate) struct Authority {
    pub(crate) domain: TrustDomain,
    ca: IssuingCa,
}

impl Authority {
    pub(crate) fn new(domain: &str) -> Self {
        let domain = TrustDomain::new(domain).unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let root = self_signed_authority(
            &domain,
            &Subject::authority(),
            &key,
            24 * HOUR,
            now().before(HOUR),
        )
        .unwrap();
        Self {
            domain,
            ca: IssuingCa::new(root, Vec::new(), Arc::new(key)).unwrap(),
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle {
            x509_authorities: vec![self.ca.authority().clone()],
            ..Bundle::empty(self.domain.clone())
        }
    }

    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        self.domain.id_with_path(&format!("/{name}")).unwrap()
    }

    pub(crate) fn svid(&self, name: &str) -> X509Svid {
        self.svid_of(name, KeyType::EcP256)
    }

    pub(crate) fn svid_of(&self, name: &str, key_type: KeyType) -> X509Svid {
        let key = PrivateKey::generate(key_type).unwrap();
        X509Svid::new(self.issue(&self.id(name), &key, HOUR, now()), key).unwrap()
    }

    /// A certificate for any key, valid from shortly before `from`.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        key: &PrivateKey,
        ttl: Duration,
        from: UnixTime,
    ) -> Vec<CertificateDer<'static>> {
        let template = SvidTemplate {
            id,
            dns_names: &[],
            ttl,
        };
        let public = PublicKey::from_spki(key.spki()).unwrap();
        self.ca.issue(&template, &public, from).unwrap().chain
    }
}

/// What all members share.
pub(crate) struct World {
    pub(crate) home: Authority,
    pub(crate) bundles: BundleSet,
    pub(crate) clock: TestClock,
    policy: String,
    places: Arc<Mutex<HashMap<String, SocketAddr>>>,
}

impl World {
    /// The trust domain `ai-agents.org` under this policy, its time standing still.
    pub(crate) fn new(policy: &str) -> Self {
        let home = Authority::new("ai-agents.org");
        Self {
            bundles: [home.bundle()].into_iter().collect(),
            home,
            clock: TestClock::fixed(now()),
            policy: policy.to_owned(),
            places: Arc::default(),
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::parse(&self.policy).unwrap_or_else(|faults| panic!("the test's policy: {faults}"))
    }

    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        self.home.id(name)
    }

    /// A mesh without a listener.
    pub(crate) fn mesh(&self, svid: X509Svid) -> (Mesh, Feed) {
        test::mesh(
            svid,
            self.bundles.clone(),
            self.policy(),
            self.clock.shared(),
        )
        .unwrap()
    }

    /// A member that relays: see [`Relay`].
    pub(crate) async fn member(&self, name: &str) -> Member {
        self.member_of(&self.home, name).await
    }

    /// The same, of any trust domain.
    pub(crate) async fn member_of(&self, authority: &Authority, name: &str) -> Member {
        let svid = authority.svid(name);
        let (mesh, feed) = self.mesh(svid.clone());
        let relay = Relay {
            mesh: mesh.clone(),
            world: Arc::clone(&self.places),
            served: Arc::default(),
        };
        let served = Arc::clone(&relay.served);
        self.serve(
            svid,
            mesh,
            feed,
            Router::new().fallback(handle).with_state(relay),
            served,
        )
        .await
    }

    /// A member with a router of its own, made for its mesh.
    pub(crate) async fn member_with(
        &self,
        name: &str,
        router: impl FnOnce(Mesh) -> Router,
    ) -> Member {
        let svid = self.home.svid(name);
        let (mesh, feed) = self.mesh(svid.clone());
        let router = router(mesh.clone());
        self.serve(svid, mesh, feed, router, Arc::default()).await
    }

    async fn serve(
        &self,
        svid: X509Svid,
        mesh: Mesh,
        feed: Feed,
        router: Router,
        served: Arc<AtomicUsize>,
    ) -> Member {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let id = svid.id().clone();
        self.places
            .lock()
            .unwrap()
            .insert(id.path().trim_start_matches('/').to_owned(), address);
        let serving = mesh.clone();
        let task = tokio::spawn(async move { serving.serve(tcp, router).await });
        Member {
            id,
            svid,
            mesh,
            feed,
            address,
            served,
            server: task.abort_handle(),
        }
    }

    /// A hand-made client with this SVID.
    pub(crate) fn raw(&self, svid: &X509Svid) -> Raw {
        Raw::new(Some(svid), &self.bundles, self.clock.shared())
    }

    /// The other end as the layer sees it, without a connection.
    pub(crate) fn connection(&self, caller: &X509Svid, callee: &X509Svid) -> Arc<Connection> {
        let tls = TlsContext::new(
            Arc::new(self.bundles.clone()),
            RustlsTime::shared(self.clock.shared()),
        );
        let config = tls
            .server(
                callee,
                ClientAuth::Required,
                ExpectedPeer::Anyone,
                TlsVersions::Only13,
                &[],
            )
            .unwrap();
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let cut = CancellationToken::new();
        let peer = Peer {
            id: caller.id().clone(),
            kid: caller.kid(),
            serial: caller.leaf().serial.clone(),
            chain: caller.chain().to_vec(),
            not_after: caller.not_after(),
            address,
            cut: cut.clone(),
        };
        let presented = Presented {
            config: Arc::new(config),
            id: callee.id().clone(),
            kid: callee.kid(),
            not_after: callee.not_after(),
        };
        Arc::new(Connection {
            address: Address::Tcp(address),
            peer: Some(Arc::new(peer)),
            presented: Some(Arc::new(presented)),
            cut,
        })
    }
}

/// A workload that serves.
pub(crate) struct Member {
    pub(crate) id: SpiffeId,
    pub(crate) svid: X509Svid,
    pub(crate) mesh: Mesh,
    pub(crate) feed: Feed,
    pub(crate) address: SocketAddr,
    /// How many requests reached its handler.
    pub(crate) served: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Member {
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    pub(crate) fn client_of(&self, callee: &Member) -> CalleeClient {
        self.mesh
            .client(callee.id.as_str())
            .unwrap()
            .at(format!("https://{}", callee.address))
            .unwrap()
    }

    /// Sends a plan to a callee, which carries it out; gives the report.
    pub(crate) async fn task(&self, callee: &Member, plan: &str) -> String {
        report(&self.client_of(callee), plan).await
    }
}

/// A relaying handler: the body of a request is a plan, words that name members. The handler calls the first with the
/// rest, and answers with what came of it: `done` by the last, or `<reason> here`, `<reason> there`.
#[derive(Clone)]
struct Relay {
    mesh: Mesh,
    world: Arc<Mutex<HashMap<String, SocketAddr>>>,
    served: Arc<AtomicUsize>,
}

async fn handle(State(relay): State<Relay>, request: Request) -> axum::response::Response {
    relay.served.fetch_add(1, Ordering::SeqCst);
    let plan = text_of(request.into_body()).await;
    let Some((next, rest)) = plan
        .split_once(' ')
        .or((!plan.is_empty()).then_some((plan.as_str(), "")))
    else {
        return "done".into_response();
    };
    let address = relay.world.lock().unwrap()[next];
    let domain = relay.mesh.svid().unwrap().id().trust_domain();
    let callee = domain.id_with_path(&format!("/{next}")).unwrap();
    let client = relay
        .mesh
        .client(callee.as_str())
        .unwrap()
        .at(format!("https://{address}"))
        .unwrap();
    report(&client, rest).await.into_response()
}

/// Calls `POST /tasks` and says what came of it.
pub(crate) async fn report(client: &CalleeClient, plan: &str) -> String {
    let request = http::Request::post("/tasks").body(plan.to_owned()).unwrap();
    match client.http().send(request).await {
        Ok(response) => text_of(response.into_body()).await,
        Err(error) => word_for(&error),
    }
}

/// `<reason> here` for a refusal by this process, `<reason> there` for one by the callee.
pub(crate) fn word_for(error: &CallError) -> String {
    match error.refused() {
        Some(refused) if refused.by() == RefusedBy::ThisWorkload => {
            format!("{} here", refused.reason())
        }
        Some(refused) => format!("{} there", refused.reason()),
        None => format!("{error:?}"),
    }
}

pub(crate) async fn text_of(body: Body) -> String {
    match body.collect().await {
        Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        Err(error) => format!("broken: {error}"),
    }
}

/// A client that is not the library: sends what it is told.
pub(crate) struct Raw {
    tls: TlsContext,
    svid: Option<X509Svid>,
    clock: SharedClock,
    http1: Mutex<HashMap<SocketAddr, Pool>>,
}

pub(crate) type Pool = Client<TlsConnector, Full<Bytes>>;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: http::response::Parts,
    pub(crate) text: String,
}

impl Answer {
    /// The reason in the header; empty if the call was not refused.
    pub(crate) fn reason(&self) -> &str {
        self.head
            .headers
            .get("agent-refusal")
            .map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn is_refused(&self, reason: Reason) {
        assert_eq!(self.reason(), reason.as_str(), "{self:?}");
        assert_eq!(self.status, reason.http_status());
    }

    #[track_caller]
    pub(crate) fn is_served(&self) {
        assert_eq!((self.reason(), self.status), ("", 200), "{self:?}");
    }
}

impl Raw {
    pub(crate) fn new(svid: Option<&X509Svid>, bundles: &BundleSet, clock: SharedClock) -> Self {
        let tls = TlsContext::new(
            Arc::new(bundles.clone()),
            RustlsTime::shared(Arc::clone(&clock)),
        );
        Self {
            tls,
            svid: svid.cloned(),
            clock,
            http1: Mutex::default(),
        }
    }

    /// A connection pool to `member` that accepts only it.
    pub(crate) fn pool(&self, member: &Member, alpn: &[&[u8]]) -> Pool {
        let expect = ExpectedPeer::Exactly(member.id.clone());
        let config = self
            .tls
            .client(self.svid.as_ref(), expect, TlsVersions::Only13, alpn)
            .unwrap();
        let connector = TlsConnector::new(
            Arc::new(config),
            &member.address.to_string(),
            Arc::clone(&self.clock),
        );
        let http2 = alpn.contains(&ALPN_H2);
        Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build(connector)
    }

    /// Sends over HTTP/1.1, which shows each header line as it is.
    pub(crate) async fn send(
        &self,
        member: &Member,
        request: http::Request<Full<Bytes>>,
    ) -> Result<Answer, hyper_util::client::legacy::Error> {
        let pool = {
            let mut pools = self.http1.lock().unwrap();
            pools
                .entry(member.address)
                .or_insert_with(|| self.pool(member, &[ALPN_HTTP11]))
                .clone()
        };
        let response = pool.request(request).await?;
        let (head, body) = response.into_parts();
        let text = text_of(Body::new(body)).await;
        Ok(Answer {
            status: head.status.as_u16(),
            head,
            text,
        })
    }

    /// Sends a chain to `POST /tasks` with the certificates of its earlier signers.
    pub(crate) async fn present(&self, member: &Member, chain: &Forge) -> Answer {
        self.present_fields(
            member,
            &[
                ("agent-chain", Some(chain.http())),
                ("agent-chain-certs", chain.certs()),
            ],
        )
        .await
    }

    /// Sends header lines to `POST /tasks`.
    pub(crate) async fn present_fields(
        &self,
        member: &Member,
        fields: &[(&str, Option<String>)],
    ) -> Answer {
        self.send(member, task_request(member, fields))
            .await
            .unwrap()
    }
}

/// `POST /tasks` to `member` with an empty plan and these header lines.
pub(crate) fn task_request(
    member: &Member,
    fields: &[(&str, Option<String>)],
) -> http::Request<Full<Bytes>> {
    let (method, path) = TASKS.split_once(' ').unwrap();
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("https://{}{path}", member.address));
    for (name, value) in fields {
        if let Some(value) = value {
            request = request.header(*name, value);
        }
    }
    request.body(Full::default()).unwrap()
}

/// A policy in which the planner and the rogue may start, and everyone of the domain may call `POST /tasks` of everyone.
pub(crate) const OPEN: &str = r#"
originate "starters" {
  workloads  = ["spiffe://ai-agents.org/planner", "spiffe://ai-agents.org/rogue"]
  new_chains = "1000/s burst 1000"
}
allow "all" {
  from    = ["spiffe://ai-agents.org/*"]
  to      = ["spiffe://ai-agents.org/*"]
  actions = ["POST /tasks"]
  rate    = "1000/s burst 1000"
}
"#;

/// The connections that a server of one's own accepts.
pub(crate) async fn own_listener(mesh: &Mesh) -> MeshListener {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.listener(tcp).unwrap()
}

pub(crate) fn ok(text: &str) -> Response<Body> {
    Response::new(Body::from(text.to_owned()))
}
