//! Every method of the API as every kind of caller, over real TLS and Unix connections.
//!
//! What is expected stands in [`METHODS`] and [`Class::expected`], which were written from SPIRE's rules and know nothing
//! of the server's own table.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_ca::authority::Authority;
use countersign_identity::bundle::X509Authority;
use countersign_identity::csr::Csr;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::node::Credential;
use countersign_identity::{KeyType, Node, PrivateKey, SpiffeId, TrustDomain, UnixTime, X509Svid};
use countersign_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::clock::TestClock;
use countersign_transport::dial::UnixConnector;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::*;

/// Who may call a method, as SPIRE's authorization policy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Any,
    Agent,
    Downstream,
    Local,
    Admin,
    AdminOrAgent,
}

/// Packages and services, then their methods by class.
#[rustfmt::skip]
const METHODS: &[(&str, Class, &[&str])] = &[
    ("spire.api.server.agent.v1.Agent", Class::Any, &["AttestAgent"]),
    ("spire.api.server.agent.v1.Agent", Class::Agent, &["RenewAgent", "PostStatus"]),
    ("spire.api.server.agent.v1.Agent", Class::Admin,
        &["CountAgents", "ListAgents", "GetAgent", "DeleteAgent", "BanAgent", "CreateJoinToken"]),
    ("spire.api.server.entry.v1.Entry", Class::Agent, &["GetAuthorizedEntries", "SyncAuthorizedEntries"]),
    ("spire.api.server.entry.v1.Entry", Class::Admin,
        &["CountEntries", "ListEntries", "GetEntry", "BatchCreateEntry", "BatchUpdateEntry", "BatchDeleteEntry"]),
    ("spire.api.server.svid.v1.SVID", Class::Agent, &["BatchNewX509SVID", "NewJWTSVID", "BatchNewWITSVID"]),
    ("spire.api.server.svid.v1.SVID", Class::Downstream, &["NewDownstreamX509CA"]),
    ("spire.api.server.svid.v1.SVID", Class::Admin, &["MintX509SVID", "MintJWTSVID", "MintWITSVID"]),
    ("spire.api.server.bundle.v1.Bundle", Class::Any, &["GetBundle"]),
    ("spire.api.server.bundle.v1.Bundle", Class::AdminOrAgent, &["GetFederatedBundle"]),
    ("spire.api.server.bundle.v1.Bundle", Class::Downstream, &["PublishJWTAuthority", "PublishWITAuthority"]),
    ("spire.api.server.bundle.v1.Bundle", Class::Admin,
        &["CountBundles", "AppendBundle", "ListFederatedBundles", "BatchCreateFederatedBundle",
          "BatchUpdateFederatedBundle", "BatchSetFederatedBundle", "BatchDeleteFederatedBundle"]),
    ("spire.api.server.trustdomain.v1.TrustDomain", Class::Admin,
        &["ListFederationRelationships", "GetFederationRelationship", "BatchCreateFederationRelationship",
          "BatchUpdateFederationRelationship", "BatchDeleteFederationRelationship", "RefreshBundle"]),
    ("spire.api.server.localauthority.v1.LocalAuthority", Class::Admin,
        &["GetJWTAuthorityState", "PrepareJWTAuthority", "ActivateJWTAuthority", "TaintJWTAuthority",
          "RevokeJWTAuthority", "GetX509AuthorityState", "PrepareX509Authority", "ActivateX509Authority",
          "TaintX509Authority", "RevokeX509Authority", "GetWITAuthorityState", "PrepareWITAuthority",
          "ActivateWITAuthority", "TaintWITAuthority", "RevokeWITAuthority", "TaintX509UpstreamAuthority",
          "RevokeX509UpstreamAuthority"]),
    ("spire.api.server.debug.v1.Debug", Class::Local, &["GetInfo"]),
    ("spire.api.server.logger.v1.Logger", Class::Local, &["GetLogger", "SetLogLevel", "ResetLogLevel"]),
    ("grpc.health.v1.Health", Class::Local, &["Check", "List", "Watch"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Local,
    Agent,
    BannedAgent,
    EvictedAgent,
    ExpiredAgent,
    AgentWithPending,
    AgentWithReplaced,
    Workload,
    Downstream,
    AdminByEntry,
    AdminById,
    ForeignAdmin,
    AgentOfAnother,
}

/// What a caller meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// The handler, whatever it says.
    Handler,
    /// The guard, with or without a reason.
    Denied(Option<Reason>),
    /// Nobody: the service is not there.
    Unimplemented,
    /// No connection at all.
    NoHandshake,
}

impl Class {
    fn expected(self, who: Who) -> Met {
        if matches!(who, Who::ExpiredAgent | Who::AgentOfAnother) {
            return Met::NoHandshake;
        }
        let local = who == Who::Local;
        let admin = matches!(who, Who::AdminByEntry | Who::AdminById | Who::ForeignAdmin);
        // What the check of node agents says, where it is asked at all.
        let agent = match who {
            Who::Agent | Who::AgentWithPending => Met::Handler,
            Who::BannedAgent => Met::Denied(Some(Reason::AgentBanned)),
            Who::AgentWithReplaced => Met::Denied(Some(Reason::AgentNotActive)),
            Who::Nobody | Who::Local => Met::Denied(None),
            _ => Met::Denied(Some(Reason::AgentNotAttested)),
        };
        match self {
            Self::Any => Met::Handler,
            Self::Local if local => Met::Handler,
            Self::Local => Met::Unimplemented,
            Self::Admin | Self::AdminOrAgent if local || admin => Met::Handler,
            Self::Admin => Met::Denied(None),
            Self::Downstream if who == Who::Downstream => Met::Handler,
            Self::Downstream => Met::Denied(None),
            Self::Agent | Self::AdminOrAgent => agent,
        }
    }
}

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A running server, and what is needed to be anybody.
struct House {
    clock: TestClock,
    address: SocketAddr,
    socket: std::path::PathBuf,
    store: Store,
    index: Index,
    authority: Authority,
    tls: TlsContext,
}

impl House {
    async fn start(folder: &TempDir, stop: &CancellationToken) -> Self {
        let socket = folder.path().join("api.sock");
        let text = format!(
            r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "example.org"
  socket_path = "{}"
  agent_ttl = "5m"
  admin_ids = ["spiffe://example.org/listed", "spiffe://other.org/ops"]
  ratelimit {{
    attestation = false
  }}
}}
plugins {{
  DataStore "memory" {{ plugin_data {{ }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  KeyManager "memory" {{ plugin_data {{ }} }}
}}
"#,
            socket.display()
        );
        let (config, _) = ServerConfig::parse("f", &text, &Overrides::default()).unwrap();
        let clock = TestClock::fixed(NOW);
        let bound = build(&config, Levels::detached(Level::Info), None, clock.shared());
        let bound = bound.await.unwrap();
        let time = RustlsTime::shared(clock.shared());
        let this = Self {
            address: bound.tcp_address,
            socket,
            store: bound.store.clone(),
            index: bound.index.clone(),
            authority: bound.rotation.authority(),
            tls: TlsContext::new(Arc::new(bound.index.clone()), time),
            clock,
        };
        tokio::spawn(bound.serve(stop.clone(), None));
        this
    }

    /// An SVID of this trust domain.
    async fn svid(&self, id: &SpiffeId) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let csr = Csr::make(&key, None).unwrap();
        let issued = self.authority.sign_agent(id, csr.into()).await.unwrap();
        X509Svid::new(issued.chain, key).unwrap()
    }

    /// A node agent's SVID, and its node as the server knows it.
    async fn agent(&self, name: &str) -> (X509Svid, Node) {
        let id = id(&format!("spiffe://example.org/spire/agent/x509pop/{name}"));
        let svid = self.svid(&id).await;
        let node = Node {
            id,
            attestation_type: "x509pop".into(),
            current: Some(credential(&svid)),
            pending: None,
            can_reattest: false,
            selectors: Default::default(),
            agent_version: String::new(),
        };
        self.attested(&node).await;
        (svid, node)
    }

    async fn attested(&self, node: &Node) {
        let written = self.store.node_attested(node).await.unwrap();
        self.index.visible(written).await.unwrap();
    }

    async fn renewed(&self, node: &Node, svid: &X509Svid) {
        let written = self.store.node_renewed(&node.id, credential(svid)).await;
        self.index.visible(written.unwrap()).await.unwrap();
    }

    /// A connection with this SVID, or the handshake's failure.
    async fn dial(&self, svid: Option<&X509Svid>) -> Result<Channel, Met> {
        let server = id("spiffe://example.org/spire/server");
        let expect = ExpectedPeer::Exactly(server);
        let config = self
            .tls
            .client(svid, expect, TlsVersions::From12, &[ALPN_H2]);
        let target = self.address.to_string();
        let connector = TlsConnector::new(Arc::new(config.unwrap()), &target, self.clock.shared());
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map_err(|_| Met::NoHandshake)
    }

    async fn local(&self) -> Channel {
        let endpoint = Endpoint::from_static("http://localhost");
        let connector = UnixConnector::new(&self.socket);
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    /// The trust domain other.org, whose bundle the server gets to know, and SVIDs of it.
    async fn others(&self) -> impl Fn(&str) -> X509Svid {
        let td = TrustDomain::new("other.org").unwrap();
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let life = Duration::from_secs(3_600);
        let root =
            self_signed_authority(&td, &Subject::authority(), key.as_ref(), life, NOW).unwrap();
        let authority = X509Authority::new(root.clone()).unwrap();
        let written = self.store.bundle_append(&td, &[authority], &[]).await;
        self.index.visible(written.unwrap()).await.unwrap();
        let ca = IssuingCa::new(root, Vec::new(), key).unwrap();
        move |path: &str| {
            let key = PrivateKey::generate(KeyType::EcP256).unwrap();
            let csr = Csr::make(&key, None).unwrap();
            let csr = Csr::parse(&csr).unwrap();
            let template = SvidTemplate {
                id: &td.id_with_path(path).unwrap(),
                dns_names: &[],
                ttl: Duration::from_secs(600),
            };
            let issued = ca.issue(&template, csr.public_key(), NOW).unwrap();
            X509Svid::new(issued.chain, key).unwrap()
        }
    }
}

fn credential(svid: &X509Svid) -> Credential {
    Credential {
        serial: svid.leaf().serial.clone(),
        expires_at: svid.not_after(),
    }
}

/// What a caller of a method with an empty message meets.
async fn met(channel: Result<Channel, Met>, method: &str) -> Met {
    let channel = match channel {
        Ok(channel) => channel,
        Err(met) => return met,
    };
    let frame = Full::new(Bytes::from_static(&[0; 5]));
    let request = http::Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(frame))
        .unwrap();
    let Ok(answer) = channel.oneshot(request).await else {
        return Met::NoHandshake;
    };
    let status = match Status::from_header_map(answer.headers()) {
        Some(status) => status,
        None => {
            let body = answer.into_body().collect().await.unwrap();
            body.trailers().and_then(Status::from_header_map).unwrap()
        }
    };
    if status.message() == format!("authorization denied for method {method}") {
        assert_eq!(status.code(), Code::PermissionDenied, "{method}");
        return Met::Denied(reason(&status));
    }
    // Handlers say it too, in words of their own.
    if status.code() == Code::Unimplemented && status.message().is_empty() {
        return Met::Unimplemented;
    }
    Met::Handler
}

fn reason(status: &Status) -> Option<Reason> {
    let details = tonic_types::Status::decode(status.details()).ok()?;
    let detail = details.details.first()?;
    let detail = types::PermissionDeniedDetails::decode(detail.value.as_slice());
    Some(detail.unwrap().reason())
}

fn entry(path: &str) -> types::Entry {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        })
    };
    types::Entry {
        spiffe_id: id(path),
        parent_id: id("/spire/agent/x509pop/a"),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

#[test]
fn the_expectations_name_every_method_that_there_is() {
    let set = prost_types::FileDescriptorSet::decode(countersign_proto::DESCRIPTOR_SET).unwrap();
    let described: BTreeSet<String> = set
        .file
        .iter()
        .filter(|f| f.package().starts_with("spire.api.server.") || f.package() == "grpc.health.v1")
        .flat_map(|f| f.service.iter().map(|s| (f.package(), s)))
        .flat_map(|(package, s)| {
            let name = format!("{package}.{}", s.name());
            s.method.iter().map(move |m| format!("{name}/{}", m.name()))
        })
        .collect();
    let named: Vec<String> = METHODS
        .iter()
        .flat_map(|(service, _, methods)| methods.iter().map(move |m| format!("{service}/{m}")))
        .collect();
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), described);
    assert_eq!(named.len(), described.len(), "a method is named twice");
}

#[tokio::test]
async fn every_method_answers_every_kind_of_caller_as_spires_does() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let house = House::start(&folder, &stop).await;
    let local = house.local().await;
    let entries = vec![
        types::Entry {
            admin: true,
            ..entry("/admin")
        },
        types::Entry {
            downstream: true,
            ..entry("/downstream")
        },
        entry("/workload"),
    ];
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let mut client = EntryClient::new(local.clone());
    let made = client.batch_create_entry(request).await;
    let made = made.unwrap().into_inner().results;
    assert!(made.iter().all(|r| r.status.as_ref().unwrap().code == 0));
    let others = house.others().await;
    let (expired, _) = house.agent("expired").await;
    house.clock.set(NOW.after(Duration::from_secs(301)));

    let (agent, _) = house.agent("a").await;
    let (banned, node) = house.agent("banned").await;
    let written = house.store.node_banned(&node.id).await.unwrap();
    house.index.visible(written).await.unwrap();
    let evicted = house
        .svid(&id("spiffe://example.org/spire/agent/x509pop/gone"))
        .await;
    let (current, renewing) = house.agent("renewing").await;
    let pending = house.svid(current.id()).await;
    let (old, replaced) = house.agent("replaced").await;
    let new = house.svid(old.id()).await;
    let now_new = Node {
        current: Some(credential(&new)),
        ..replaced
    };
    house.attested(&now_new).await;

    let mut channels = Vec::new();
    for (who, svid) in [
        (Who::Agent, agent),
        (Who::BannedAgent, banned),
        (Who::EvictedAgent, evicted),
        (Who::ExpiredAgent, expired),
        (Who::AgentWithPending, pending.clone()),
        (Who::AgentWithReplaced, old),
        (
            Who::Workload,
            house.svid(&id("spiffe://example.org/workload")).await,
        ),
        (
            Who::Downstream,
            house.svid(&id("spiffe://example.org/downstream")).await,
        ),
        (
            Who::AdminByEntry,
            house.svid(&id("spiffe://example.org/admin")).await,
        ),
        (
            Who::AdminById,
            house.svid(&id("spiffe://example.org/listed")).await,
        ),
        (Who::ForeignAdmin, others("/ops")),
        (Who::AgentOfAnother, others("/spire/agent/x509pop/a")),
    ] {
        channels.push((who, house.dial(Some(&svid)).await));
    }
    channels.push((Who::Nobody, house.dial(None).await));
    channels.push((Who::Local, Ok(local)));

    let mut wrong = Vec::new();
    for (service, class, methods) in METHODS {
        for method in *methods {
            let method = format!("/{service}/{method}");
            for (who, channel) in &channels {
                if *who == Who::AgentWithPending {
                    // The first use makes it the current one, so each method gets a renewal of its own.
                    house.attested(&renewing).await;
                    house.renewed(&renewing, &pending).await;
                }
                let (met, want) = (met(channel.clone(), &method).await, class.expected(*who));
                if met != want {
                    wrong.push(format!("{who:?} of {method}: {met:?}, and not {want:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stop.cancel();
}
