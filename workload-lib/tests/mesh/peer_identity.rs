//! Cases 12 to 14: who is there and what they ask for, what a flood can take, and whose key it is.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use countersign::Reason;
use countersign_identity::tls::{ALPN_HTTP11, TlsContext};
use countersign_identity::{KeyType, PrivateKey, SigningKey as _, X509Svid};
use countersign_mesh::Policy;
use countersign_transport::Connection;
use http::{Request, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use tower::{Layer as _, ServiceExt as _};

use crate::fixture::{Authority, HOUR, NOW, OPEN, Raw, World, now, ok, task_request};
use crate::forge::{Forge, Style};

fn pay_policy(from: &str) -> String {
    format!(
        r#"
originate "planner" {{
  workloads  = ["spiffe://ai-agents.org/planner", "spiffe://other.org/planner"]
  new_chains = "1000/s burst 1000"
}}
allow "pay" {{
  from    = ["{from}"]
  to      = ["spiffe://ai-agents.org/bank"]
  actions = ["POST /pay", "POST /pay/*"]
}}
"#
    )
}

/// The reason for a request with this target, with a chain that says the same.
async fn reason_for(world: &World, target: &str) -> String {
    let planner = world.home.svid("planner");
    let bank = world.member("bank").await;
    let action = format!("POST {}", target.split('?').next().unwrap());
    let chain = Forge::start_with(&planner, &bank.id, |c| c.action = action);
    let mut request = task_request(&bank, &[("agent-chain", Some(chain.http()))]);
    *request.uri_mut() = format!("https://{}{target}", bank.address).parse().unwrap();
    world
        .raw(&planner)
        .send(&bank, request)
        .await
        .unwrap()
        .reason()
        .to_owned()
}

#[tokio::test]
async fn case_12_paths_match_whole_segments_in_their_one_spelling() {
    let world = World::new(&pay_policy("spiffe://ai-agents.org/planner"));
    for allowed in ["/pay", "/pay/1", "/pay/1?x=..", "/pay/%C3%A9"] {
        assert_eq!(reason_for(&world, allowed).await, "", "{allowed}");
    }
    let denied = [
        "/payroll",
        "/pay/../pay",
        "/pay/..",
        "/./pay",
        "//pay",
        "/pay//1",
        "/pay/%2e%2e",
        "/pay/%2E",
        "/pay/%2f",
        "/pay/%2F",
        "/pay/%5C",
        "/pay/%00",
        "/pay/%c3%a9",
        "/pay/%41",
        "/pay/%4",
        "/PAY",
        "/pay/1/2",
        "/",
    ];
    for target in denied {
        assert_eq!(
            reason_for(&world, target).await,
            "action_denied",
            "{target}"
        );
    }
}

#[tokio::test]
async fn case_12_another_trust_domain_or_no_rule_is_edge_denied() {
    let other = Authority::new("other.org");
    let mut world = World::new(&pay_policy("spiffe://ai-agents.org/planner"));
    world.bundles.insert(Arc::new(other.bundle()));
    let bank = world.member("bank").await;
    // A verified workload of a federated trust domain, with the same path.
    let stranger = other.svid("planner");
    let chain = Forge::start_with(&stranger, &bank.id, |c| c.action = "POST /pay".to_owned());
    let mut request = task_request(&bank, &[("agent-chain", Some(chain.http()))]);
    *request.uri_mut() = format!("https://{}/pay", bank.address).parse().unwrap();
    world
        .raw(&stranger)
        .send(&bank, request)
        .await
        .unwrap()
        .is_refused(Reason::EdgeDenied);

    let empty = World::new("");
    let coder = empty.member("coder").await;
    let planner = empty.home.svid("planner");
    let chain = Forge::start(&planner, &coder.id);
    empty
        .raw(&planner)
        .present(&coder, &chain)
        .await
        .is_refused(Reason::EdgeDenied);
    assert!(
        Policy::parse(&pay_policy("spiffe://AI-agents.org/planner")).is_err(),
        "an upper-case domain"
    );
}

#[tokio::test]
async fn case_12_forwarded_client_certificates_change_nothing() {
    let world = World::new(&pay_policy("spiffe://ai-agents.org/planner"));
    let bank = world.member("bank").await;
    let intruder = world.home.svid("intruder");
    let planner = world.home.svid("planner");
    let chain = Forge::start_with(&planner, &bank.id, |c| c.action = "POST /pay".to_owned());
    let mut request = task_request(&bank, &[("agent-chain", Some(chain.http()))]);
    *request.uri_mut() = format!("https://{}/pay", bank.address).parse().unwrap();
    let forwarded = "By=spiffe://ai-agents.org/bank;URI=spiffe://ai-agents.org/planner";
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", forwarded.parse().unwrap());
    world
        .raw(&intruder)
        .send(&bank, request)
        .await
        .unwrap()
        .is_refused(Reason::EdgeDenied);
    assert_eq!(bank.served(), 0);
}

#[tokio::test]
async fn case_12_certificates_that_are_no_svids_fail_the_handshake() {
    let mut world = World::new(OPEN);
    let crafted = Crafted::new();
    world.bundles = crafted.bundles(&world);
    let coder = world.member("coder").await;
    let planner = "spiffe://ai-agents.org/planner";

    let one = world
        .raw(&crafted.svid(&[planner]))
        .present_fields(&coder, &[])
        .await;
    one.is_refused(Reason::ChainRequired);
    for uris in [
        &[planner, "spiffe://ai-agents.org/coder"][..],
        &["spiffe://AI-agents.org/planner"],
        &[],
        &["https://x"],
    ] {
        let config = crafted.client(uris, &world);
        let connector = countersign_transport::dial::TlsConnector::new(
            Arc::new(config),
            &coder.address.to_string(),
            Arc::new(world.clock.clone()),
        );
        let pool: crate::fixture::Pool =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build(connector);
        let failed = pool.request(task_request(&coder, &[])).await;
        assert!(failed.is_err(), "{uris:?}");
    }
    let nobody = Raw::new(None, &world.bundles, Arc::new(world.clock.clone()));
    assert!(
        nobody
            .send(&coder, task_request(&coder, &[]))
            .await
            .is_err(),
        "no certificate"
    );
    assert_eq!(coder.served(), 0);
}

/// An authority that certifies whatever it is told.
struct Crafted {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Crafted {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://ai-agents.org".try_into().unwrap())];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn bundles(&self, world: &World) -> countersign_identity::BundleSet {
        let mut bundle = world.home.bundle();
        bundle
            .x509_authorities
            .push(countersign_identity::bundle::X509Authority::new(self.root.clone()).unwrap());
        [bundle].into_iter().collect()
    }

    fn leaf(&self, uris: &[&str]) -> (CertificateDer<'static>, PrivateKey) {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let public = rcgen::SubjectPublicKeyInfo::from_der(key.spki()).unwrap();
        (
            params
                .signed_by(&public, &self.issuer)
                .unwrap()
                .der()
                .clone(),
            key,
        )
    }

    fn svid(&self, uris: &[&str]) -> X509Svid {
        let (leaf, key) = self.leaf(uris);
        X509Svid::new(vec![leaf], key).unwrap()
    }

    /// A TLS client that presents it, whatever it is.
    fn client(&self, uris: &[&str], world: &World) -> rustls::ClientConfig {
        let (leaf, key) = self.leaf(uris);
        let time = countersign_transport::clock::RustlsTime::shared(Arc::new(world.clock.clone()));
        let honest = TlsContext::new(Arc::new(world.bundles.clone()), time)
            .client(
                None,
                countersign_identity::tls::ExpectedPeer::Anyone,
                countersign_identity::tls::TlsVersions::Only13,
                &[ALPN_HTTP11],
            )
            .unwrap();
        let mut config = honest;
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.to_pkcs8().to_vec());
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(vec![leaf], key);
        config.client_auth_cert_resolver =
            Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        config
    }
}

#[tokio::test]
async fn case_12_a_request_without_a_peer_is_no_peer_identity() {
    let world = World::new(OPEN);
    let (mesh, _feed) = world.mesh(world.home.svid("coder"));
    let service = mesh
        .inbound_layer()
        .layer(tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(ok("served"))
        }));
    let request = || Request::post("/tasks").body(Body::empty()).unwrap();
    let answer = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["agent-refusal"], "no_peer_identity");

    let mut by_unix = request();
    let caller = countersign_transport::UnixCaller {
        pid: None,
        uid: 0,
        gid: 0,
        process: None,
    };
    by_unix
        .extensions_mut()
        .insert(Arc::new(Connection::unix(caller, Default::default())));
    let answer = service.oneshot(by_unix).await.unwrap();
    assert_eq!(answer.headers()["agent-refusal"], "no_peer_identity");
}

#[tokio::test]
async fn connect_and_upgrades_are_refused() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let coder = world.member("coder").await;
    let chain = Forge::start(&planner, &coder.id);
    let mut upgrade = task_request(&coder, &[("agent-chain", Some(chain.http()))]);
    upgrade
        .headers_mut()
        .insert("connection", "upgrade".parse().unwrap());
    upgrade
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    let raw = world.raw(&planner);
    raw.send(&coder, upgrade)
        .await
        .unwrap()
        .is_refused(Reason::ActionDenied);
    assert_eq!(coder.served(), 0);
}

#[tokio::test]
async fn case_13_a_peer_without_an_edge_costs_no_decoding() {
    let world = World::new(&pay_policy("spiffe://ai-agents.org/planner"));
    let bank = world.member("bank").await;
    let intruder = world.raw(&world.home.svid("intruder"));
    let mut request = task_request(&bank, &[("agent-chain", Some("not a chain".to_owned()))]);
    *request.uri_mut() = format!("https://{}/pay", bank.address).parse().unwrap();
    intruder
        .send(&bank, request)
        .await
        .unwrap()
        .is_refused(Reason::EdgeDenied);
}

#[tokio::test]
async fn case_13_refusals_exhaust_only_the_peers_own_failure_bucket() {
    let world = World::new(OPEN);
    let coder = world.member("coder").await;
    let planner = world.home.svid("planner");
    let noisy = world.raw(&world.home.svid("noisy"));
    let junk = [("agent-chain", Some("junk".to_owned()))];
    let mut reasons = Vec::new();
    for _ in 0..150 {
        let reason = noisy
            .present_fields(&coder, &junk)
            .await
            .reason()
            .to_owned();
        if reasons.last() != Some(&reason) {
            reasons.push(reason);
        }
    }
    assert_eq!(reasons[..2], ["chain_malformed", "rate_limited"]);
    world
        .raw(&planner)
        .present(&coder, &Forge::start(&planner, &coder.id))
        .await
        .is_served();
}

#[tokio::test]
async fn case_13_one_peers_flood_leaves_anothers_quota_alone() {
    let policy = r#"
originate "starters" {
  workloads  = ["spiffe://ai-agents.org/planner", "spiffe://ai-agents.org/rogue"]
  new_chains = "1/h burst 5"
}
allow "all" {
  from    = ["spiffe://ai-agents.org/*"]
  to      = ["spiffe://ai-agents.org/*"]
  actions = ["POST /tasks"]
  rate    = "1/h burst 50"
}
"#;
    let world = World::new(policy);
    let coder = world.member("coder").await;
    let (planner, rogue) = (world.home.svid("planner"), world.home.svid("rogue"));
    let flood = world.raw(&rogue);
    let mut reasons = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let answer = flood
            .present(&coder, &Forge::start(&rogue, &coder.id))
            .await;
        *reasons.entry(answer.reason().to_owned()).or_default() += 1;
    }
    assert_eq!(reasons[""], 5, "{reasons:?}");
    assert_eq!(
        reasons["new_chain_rate_limited"], 55,
        "what was refused gave its share of the edge back: {reasons:?}"
    );
    let raw = world.raw(&planner);
    for _ in 0..5 {
        raw.present(&coder, &Forge::start(&planner, &coder.id))
            .await
            .is_served();
    }
    let answer = raw
        .present(&coder, &Forge::start(&planner, &coder.id))
        .await;
    answer.is_refused(Reason::NewChainRateLimited);
    assert!(answer.head.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn case_13_neither_new_keys_nor_a_clock_set_back_refill() {
    let world = World::new(&OPEN.replacen(
        "1000/s burst 1000\"\n}\nallow",
        "1/h burst 1\"\n}\nallow",
        1,
    ));
    let coder = world.member("coder").await;
    let planner = world.home.svid("planner");
    let raw = world.raw(&planner);
    let used = Forge::start(&planner, &coder.id);
    raw.present(&coder, &used).await.is_served();
    let fresh = || Forge::start(&planner, &coder.id);
    raw.present(&coder, &fresh())
        .await
        .is_refused(Reason::NewChainRateLimited);
    for _ in 0..50 {
        raw.present(&coder, &fresh())
            .await
            .is_refused(Reason::NewChainRateLimited);
    }
    raw.present(&coder, &used)
        .await
        .is_refused(Reason::ChainReplayed);
    world.clock.set(now().before(Duration::from_secs(20)));
    raw.present(&coder, &fresh())
        .await
        .is_refused(Reason::NewChainRateLimited);
    raw.present(&coder, &used)
        .await
        .is_refused(Reason::ChainReplayed);
}

#[tokio::test]
async fn case_14_a_foreign_certificate_of_the_same_key_is_ignored() {
    let other = Authority::new("other.org");
    let mut world = World::new(OPEN);
    world.bundles.insert(Arc::new(other.bundle()));
    let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
    let reviewer = world.member("reviewer").await;
    // A certificate of the other trust domain over the planner's public key goes along, and comes first.
    let foreign = other.issue(&other.id("planner"), planner.key(), HOUR, now());
    let foreign = X509Svid::new(foreign, planner.key().clone()).unwrap();
    let honest = Forge::start(&planner, coder.id());
    let mut chain = Forge::default();
    chain.add(&foreign, honest.last().clone(), &Style::default());
    let both = [foreign.chain()[0].to_vec(), planner.chain()[0].to_vec()];
    let chain = chain.then(&coder, &reviewer.id);
    let fields = [
        ("agent-chain", Some(chain.http())),
        ("agent-chain-certs", Some(certs(&both))),
    ];
    world
        .raw(&coder)
        .present_fields(&reviewer, &fields)
        .await
        .is_served();

    let only_foreign = chain.certs();
    let again = honest.then(&coder, &reviewer.id);
    let fields = [
        ("agent-chain", Some(again.http())),
        ("agent-chain-certs", only_foreign),
    ];
    world
        .raw(&coder)
        .present_fields(&reviewer, &fields)
        .await
        .is_served();
}

fn certs(leaves: &[Vec<u8>]) -> String {
    let mut out = [
        crate::forge::head(4, 2),
        crate::forge::head(4, leaves.len() as u64),
    ]
    .concat();
    leaves
        .iter()
        .for_each(|leaf| out.extend(crate::forge::bytes(leaf)));
    out.extend(crate::forge::head(4, 0));
    crate::forge::byte_sequence(&out)
}

#[tokio::test]
async fn case_14_a_link_from_a_domain_without_a_bundle_is_refused() {
    let other = Authority::new("other.org");
    let policy = OPEN.replace("spiffe://ai-agents.org/rogue", "spiffe://other.org/planner");
    let world = World::new(&policy);
    let stranger = other.svid("planner");
    let coder = world.home.svid("coder");
    let reviewer = world.member("reviewer").await;
    let chain = Forge::start(&stranger, coder.id()).then(&coder, &reviewer.id);
    world
        .raw(&coder)
        .present(&reviewer, &chain)
        .await
        .is_refused(Reason::ChainSignatureInvalid);
}

#[tokio::test]
async fn case_14_an_earlier_links_leaf_may_expire_after_signing() {
    let world = World::new(OPEN);
    let coder = world.home.svid("coder");
    let reviewer = world.member("reviewer").await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let short = world.home.issue(
        &world.id("planner"),
        &key,
        Duration::from_secs(60),
        now().before(Duration::from_secs(90)),
    );
    let planner = X509Svid::new(short, key).unwrap();
    assert!(planner.not_after() < now());
    let chain = Forge::start_with(&planner, coder.id(), |c| c.iat = NOW - 60).then_with(
        &coder,
        &reviewer.id,
        |c| c.iat = NOW,
    );
    world
        .raw(&coder)
        .present(&reviewer, &chain)
        .await
        .is_served();

    // Not if it had expired when the link was made.
    let chain = Forge::start(&planner, coder.id()).then(&coder, &reviewer.id);
    let answer = world.raw(&coder).present(&reviewer, &chain).await;
    assert_eq!(answer.reason(), "", "within the 30 s to either side");
    let chain =
        Forge::start_with(&planner, coder.id(), |c| c.iat = NOW + 5).then(&coder, &reviewer.id);
    world
        .raw(&coder)
        .present(&reviewer, &chain)
        .await
        .is_refused(Reason::ChainSignatureInvalid);
}

#[tokio::test]
async fn case_14_a_connection_with_an_expired_leaf_has_no_identity() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
    let connection = world.connection(&planner, &coder);
    let (mesh, _feed) = world.mesh(coder);
    let service = mesh
        .inbound_layer()
        .layer(tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(ok("served"))
        }));
    let request = |iat: u64| {
        let chain = Forge::start_with(&planner, &world.id("coder"), |c| {
            (c.iat, c.exp) = (iat, iat + 60);
        });
        let mut request = Request::post("/tasks")
            .header("agent-chain", chain.http())
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Arc::clone(&connection));
        request
    };
    assert_eq!(
        service
            .clone()
            .oneshot(request(NOW))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
    let end = planner.not_after().as_secs();
    world
        .clock
        .set(countersign_identity::UnixTime::from_secs(end + 1));
    let answer = service.oneshot(request(end + 1)).await.unwrap();
    assert_eq!(answer.headers()["agent-refusal"], "no_peer_identity");
}
