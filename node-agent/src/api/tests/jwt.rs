//! JWT-SVIDs over real sockets on both sides: the workload's, and mTLS to a stand-in for the server.

use countersign_identity::X509Svid;
use countersign_identity::jwt::JwtTemplate;
use countersign_identity::verify::Leaf;
use countersign_proto::spiffe::workload::{
    JwtBundlesRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    X509BundlesRequest,
};
use prost_types::value::Kind;
use tokio::sync::watch;
use tonic::{Request, Status};

use super::*;
use crate::client::{ServerClient, SharedClient, TrustedBundles};
use crate::entry::tests::wire;
use crate::test_server::{NodeRecord, TestServer};

/// The node agent with a server behind it.
struct JwtFixture {
    served: TestAgent,
    server: Option<TestServer>,
    identity: watch::Sender<Option<X509Svid>>,
}

impl JwtFixture {
    async fn start(config: ApiConfig) -> Self {
        let served = TestAgent::with(config).await;
        let server = TestServer::start(&served.clock).await;
        let whole = server.state().ca.whole_bundle();
        server.state().bundle = whole;
        let fixture = Self {
            served,
            server: Some(server),
            identity: watch::Sender::default(),
        };
        fixture.identify();
        let bundles = TrustedBundles::default();
        bundles.replace(Arc::new(fixture.server().state().bundle.clone()));
        let client = ServerClient::new(
            fixture.server().address.to_string(),
            trust_domain(),
            &bundles,
            fixture.served.clock.shared(),
        );
        let shared_client = SharedClient::new(client, fixture.identity.subscribe());
        fixture.served.jwt_svids.connect(shared_client);
        fixture
    }

    fn server(&self) -> &TestServer {
        self.server.as_ref().unwrap()
    }

    /// The node has a new SVID, and the server knows no other.
    fn identify(&self) {
        let id = trust_domain().id_with_path("/spire/agent/x").unwrap();
        let mut state = self.server().state();
        let svid = state.ca.issue(&id, Duration::from_secs(3600), NOW);
        state.node = Some(NodeRecord {
            id,
            current: Leaf::parse(&svid.chain()[0]).unwrap().serial,
            pending: None,
            reattestable: false,
        });
        self.identity.send_replace(Some(svid));
    }

    /// This process has these entries, on both sides.
    fn entries(&self, ids: &[(&str, &str)]) {
        let mut served = Vec::new();
        for (id, hint) in ids {
            let entry = countersign_proto::spire::api::types::Entry {
                hint: (*hint).into(),
                ..wire(id, &[&own()])
            };
            self.server()
                .state()
                .entries
                .insert((*id).into(), entry.clone());
            served.push(ServedEntry {
                entry: Arc::new(entry.try_into().unwrap()),
                svid: None,
            });
        }
        let bundle = self.server().state().bundle.clone();
        self.served.publish_with(bundle, &served, &[]);
    }

    async fn fetch(&self, audience: &[&str], id: &str) -> Result<JwtsvidResponse, Status> {
        let request = JwtsvidRequest {
            audience: audience.iter().map(|a| (*a).to_owned()).collect(),
            spiffe_id: id.into(),
        };
        let mut client = SpiffeWorkloadApiClient::new(self.served.channel().await);
        Ok(client.fetch_jwtsvid(secured(request)).await?.into_inner())
    }

    fn asked(&self) -> usize {
        let state = self.server().state();
        state.calls.get("NewJWTSVID").copied().unwrap_or_default()
    }
}

fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, "true".parse().unwrap());
    request
}

async fn validate(
    served: &TestAgent,
    audience: &str,
    svid: &str,
) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest {
        audience: audience.into(),
        svid: svid.into(),
    };
    let mut client = SpiffeWorkloadApiClient::new(served.channel().await);
    Ok(client
        .validate_jwtsvid(secured(request))
        .await?
        .into_inner())
}

#[tokio::test]
async fn each_matching_entry_gives_a_token_and_one_id_gives_its_own() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "first"), ("b", ""), ("c", "first")]);
    let all = fixture.fetch(&["x", "y"], "").await.unwrap().svids;
    let told: Vec<_> = all.iter().map(|s| (&*s.spiffe_id, &*s.hint)).collect();
    assert_eq!(
        told,
        [
            ("spiffe://example.org/a", "first"),
            ("spiffe://example.org/b", "")
        ],
        "of two with the same hint the older one"
    );
    let one = fixture
        .fetch(&["x"], "spiffe://example.org/b")
        .await
        .unwrap();
    assert_eq!(one.svids.len(), 1);
    let valid = validate(&fixture.served, "x", &one.svids[0].svid)
        .await
        .unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/b");
    let claims = valid.claims.unwrap().fields;
    assert!(matches!(claims["aud"].kind, Some(Kind::ListValue(_))));
    assert!(claims.contains_key("iat"), "all claims of an own token");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_has_spires_codes_and_texts() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    let refused = async |audience: &[&str], id: &str| {
        let status = fixture.fetch(audience, id).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let told = |code, text: &str| (code, text.to_owned());
    assert_eq!(
        refused(&[], "").await,
        told(Code::InvalidArgument, "audience must be specified")
    );
    let (code, text) = refused(&["x"], "not an id").await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("invalid requested SPIFFE ID: "), "{text}");
    assert_eq!(
        refused(&["x"], "spiffe://example.org/other").await,
        told(Code::PermissionDenied, "no identity issued")
    );
    fixture.served.publish(&[], &[]);
    assert_eq!(
        refused(&["x"], "").await,
        told(Code::PermissionDenied, "no identity issued")
    );
    let long = "a".repeat(limits::AUDIENCE_BYTES + 1);
    assert_eq!(refused(&[&long], "").await.0, Code::InvalidArgument);
    let huge = "a".repeat(limits::WORKLOAD_REQUEST_BYTES + 1);
    assert_eq!(refused(&[&huge], "").await.0, Code::OutOfRange);
    assert_eq!(fixture.asked(), 0);

    let valid = async |audience: &str, svid: &str| {
        let status = validate(&fixture.served, audience, svid).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    assert_eq!(
        valid("", "x").await,
        told(Code::InvalidArgument, "audience must be specified")
    );
    assert_eq!(
        valid("x", "").await,
        told(Code::InvalidArgument, "svid must be specified")
    );
    assert_eq!(valid("x", "a.b.c").await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_token_is_reused_for_half_of_its_life() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    let token = async |audience: &[&str]| {
        let mut answer = fixture.fetch(audience, "").await.unwrap();
        answer.svids.remove(0).svid
    };
    let first = token(&["x", "y"]).await;
    assert_eq!(token(&["y", "x"]).await, first);
    assert_eq!(fixture.asked(), 1);
    assert_ne!(token(&["x"]).await, first, "other audiences, another token");
    assert_eq!(fixture.asked(), 2);
    fixture.served.later(130);
    assert_eq!(token(&["x", "y"]).await, first);
    fixture.served.later(40);
    assert_ne!(token(&["x", "y"]).await, first);
    assert_eq!(fixture.asked(), 3);
}

#[tokio::test]
async fn with_the_server_away_the_last_token_is_good_until_it_expires() {
    let mut fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    let first = fixture.fetch(&["x"], "").await.unwrap();
    fixture.server.take().unwrap().stop().await;
    fixture.served.later(200);
    assert_eq!(fixture.fetch(&["x"], "").await.unwrap(), first);
    let status = fixture.fetch(&["y"], "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().starts_with("could not fetch JWT-SVID: "),
        "{status}"
    );
    fixture.served.later(101);
    assert_eq!(
        fixture.fetch(&["x"], "").await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn tokens_of_a_tainted_key_are_not_reused_without_a_server() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    fixture.fetch(&["x"], "").await.unwrap();
    fixture.fetch(&["x"], "").await.unwrap();
    assert_eq!(fixture.asked(), 1);
    fixture.server().state().bundle.jwt_authorities[0].tainted = true;
    fixture.entries(&[("a", "")]);
    fixture.fetch(&["x"], "").await.unwrap();
    assert_eq!(fixture.asked(), 2);
    let unavailable = Status::invalid_argument("no");
    fixture
        .server()
        .state()
        .failing
        .insert("NewJWTSVID", unavailable);
    assert_eq!(
        fixture.fetch(&["x"], "").await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn many_who_ask_for_the_same_cause_one_fetch() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    let all = futures::future::join_all((0..20).map(|_| fixture.fetch(&["x"], ""))).await;
    assert!(
        all.iter()
            .all(|answer| answer.as_ref().unwrap() == all[0].as_ref().unwrap())
    );
    assert_eq!(fixture.asked(), 1);
    assert_eq!(fixture.served.jwt_svids.count(), 1);
}

#[tokio::test]
async fn a_flood_of_audiences_leaves_the_bounded_number() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    let svids = JwtSvids::new(
        10,
        fixture.served.feed.clone(),
        fixture.served.clock.shared(),
    );
    let bundles = TrustedBundles::default();
    bundles.replace(Arc::new(fixture.server().state().bundle.clone()));
    let client = ServerClient::new(
        fixture.server().address.to_string(),
        trust_domain(),
        &bundles,
        fixture.served.clock.shared(),
    );
    svids.connect(SharedClient::new(client, fixture.identity.subscribe()));
    let entry: AuthorizedEntry = wire("a", &[&own()]).try_into().unwrap();
    for number in 0..40 {
        svids.get(&entry, &[number.to_string()], 7).await.unwrap();
    }
    assert_eq!(svids.count(), 10);
}

#[tokio::test]
async fn a_renewed_node_shows_its_new_svid() {
    let fixture = JwtFixture::start(ApiConfig::default()).await;
    fixture.entries(&[("a", "")]);
    fixture.fetch(&["x"], "").await.unwrap();
    fixture.identify();
    fixture.fetch(&["y"], "").await.unwrap();
    assert_eq!(fixture.server().state().connections.len(), 2);
}

#[tokio::test]
async fn a_foreign_token_tells_only_what_it_must_and_may() {
    let mut config = ApiConfig::default();
    config.verifiers.foreign_claims.insert("iat".into());
    let served = TestAgent::with(config).await;
    let td = TrustDomain::new("other.org").unwrap();
    let ca = TestCa::of(&td, NOW);
    let id = td.id_with_path("/w").unwrap();
    let template = JwtTemplate {
        id: &id,
        audience: &["x".to_owned()],
        ttl: Duration::from_secs(300),
        issuer: Some("https://issuer"),
        with_id: true,
    };
    let token = ca.jwt().issue(&template, NOW).unwrap().token;
    let federating = AuthorizedEntry {
        federates_with: vec![td.clone()],
        ..served.entry("a", &own())
    };
    let publish = |entry: AuthorizedEntry| {
        let entry = ServedEntry {
            entry: Arc::new(entry),
            svid: None,
        };
        served.feed.publish(Snapshot::new(
            Arc::new(served.ca.whole_bundle()),
            [entry],
            [(td.clone(), Arc::new(ca.whole_bundle()))].into(),
            EntrySource::Server,
        ));
    };
    publish(federating);
    let valid = validate(&served, "x", &token).await.unwrap();
    let claims = valid.claims.unwrap().fields;
    let names: Vec<_> = claims.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "sub"]);
    assert_eq!(
        validate(&served, "y", &token).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    // Whoever does not federate with it can't verify it.
    publish(served.entry("a", &own()));
    assert_eq!(
        validate(&served, "x", &token).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn jwt_bundles_are_jwk_sets_sent_again_only_when_changed() {
    let served = TestAgent::start().await;
    let federating = AuthorizedEntry {
        federates_with: vec![TrustDomain::new("other.org").unwrap()],
        ..served.entry("a", &own())
    };
    let entry = ServedEntry {
        entry: Arc::new(federating),
        svid: None,
    };
    served.publish(std::slice::from_ref(&entry), &["other.org"]);
    let mut client = SpiffeWorkloadApiClient::new(served.channel().await);
    let request = secured(JwtBundlesRequest {});
    let mut answers = client
        .fetch_jwt_bundles(request)
        .await
        .unwrap()
        .into_inner();
    let first = answers.message().await.unwrap().unwrap().bundles;
    let mut names: Vec<_> = first.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["spiffe://example.org", "spiffe://other.org"]);
    let set: serde_json::Value = serde_json::from_slice(&first["spiffe://example.org"]).unwrap();
    let key = &set["keys"][0];
    assert_eq!(key["kid"], served.ca.jwt().key_id());
    assert!(key.get("use").is_none() && set.get("spiffe_sequence").is_none());

    // A change of the X.509 authorities alone is nothing here; the one after it is.
    let mut own = served.ca.whole_bundle();
    own.sequence_number += 1;
    served.publish_with(own.clone(), &[], &[]);
    own.jwt_authorities.clear();
    served.publish_with(own, &[entry], &[]);
    let second = answers.message().await.unwrap().unwrap().bundles;
    assert_eq!(
        second["spiffe://example.org"]
            .as_ref()
            .iter()
            .filter(|b| !b.is_ascii_whitespace())
            .count(),
        br#"{"keys":[]}"#.len()
    );
}

#[tokio::test]
async fn unauthenticated_verifiers_get_own_bundles_if_allowed() {
    for (allowed, code) in [(false, Err(Code::PermissionDenied)), (true, Ok(1))] {
        let mut config = ApiConfig::default();
        config.verifiers.allow_unauthenticated = allowed;
        let served = TestAgent::with(config).await;
        served.publish(&[], &["other.org"]);
        let mut client = SpiffeWorkloadApiClient::new(served.channel().await);
        let request = secured(JwtBundlesRequest {});
        let mut jwt = client
            .fetch_jwt_bundles(request)
            .await
            .unwrap()
            .into_inner();
        let jwt = jwt.message().await.map(|m| m.unwrap().bundles.len());
        assert_eq!(jwt.map_err(|s| s.code()), code);
        let request = secured(X509BundlesRequest {});
        let mut x509 = client
            .fetch_x509_bundles(request)
            .await
            .unwrap()
            .into_inner();
        let x509 = x509.message().await.map(|m| m.unwrap().bundles.len());
        assert_eq!(x509.map_err(|s| s.code()), code);
    }
}

#[tokio::test]
async fn wit_svids_are_not_implemented() {
    let served = TestAgent::start().await;
    served.publish(&[], &[]);
    for method in ["FetchWITSVID", "FetchWITBundles"] {
        let mut grpc = tonic::client::Grpc::new(served.channel().await);
        grpc.ready().await.unwrap();
        let path = format!("/SpiffeWorkloadAPI/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<JwtBundlesRequest, JwtBundlesRequest>::default();
        let status = grpc
            .unary(secured(JwtBundlesRequest {}), path, codec)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
}
