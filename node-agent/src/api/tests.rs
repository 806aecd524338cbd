//! The Workload API over a real socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::logs::{Level, Levels};
use countersign_identity::{Bundle, TrustDomain, UnixTime};
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_proto::spiffe::workload::{JwtsvidRequest, X509svidRequest};
use countersign_transport::clock::{Clock as _, TestClock};
use countersign_transport::dial::UnixConnector;
use countersign_transport::serve::Http;
use countersign_transport::unix::{Access, Socket};
use countersign_transport::{ServeOptions, SystemClock, serve_unix};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::entry::AuthorizedEntry;
use crate::limits;
use crate::svid::ServedSvid;
use crate::sync::snapshot::ServedEntry;
use crate::sync::{EntrySource, Snapshot};
use crate::test_ca::{TestCa, trust_domain};
use crate::workload_attestor::{Discover, Unix};
use crate::workload_client::{SECURITY_HEADER, WorkloadClient};

mod admin;
mod greedy;
mod hostile;
mod jwt;
mod reflection;
mod sds;
mod wrong_process;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

struct TestAgent {
    directory: tempfile::TempDir,
    feed: Feed,
    jwt_svids: JwtSvids,
    clock: TestClock,
    ca: TestCa,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl TestAgent {
    async fn start() -> Self {
        let config = ApiConfig {
            sds: Some(crate::config::SdsConfig::default()),
            ..ApiConfig::default()
        };
        Self::with(config).await
    }

    async fn with(config: ApiConfig) -> Self {
        Self::with_attestor(config, Unix::new(Discover::UsersOnly)).await
    }

    async fn with_attestor(config: ApiConfig, attestor: Unix) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let socket = Socket::bind(&path, Access::PUBLIC).await.unwrap();
        let admin_path = directory.path().join("admin/admin.sock");
        let admin_socket = Socket::bind(&admin_path, Access::ADMIN).await.unwrap();
        let (feed, stop) = (Feed::default(), CancellationToken::new());
        let clock = TestClock::fixed(NOW);
        let jwt_svids = JwtSvids::new(limits::JWT_SVIDS, feed.clone(), clock.shared());
        let sources = Sources {
            feed: feed.clone(),
            jwt_svids: jwt_svids.clone(),
            attestors: Attestors::new(vec![Arc::new(attestor)]),
            clock: clock.shared(),
            stop: stop.clone(),
        };
        let router = public(&sources, &config, path);
        let admin = super::admin(&sources, &config, Levels::detached(Level::Info));
        let options = ServeOptions::new(Http::Http2Only, SystemClock::shared());
        let served = stop.clone();
        let server = tokio::spawn(async move {
            tokio::join!(
                serve_unix(socket, router, options.clone(), served.clone()),
                serve_unix(admin_socket, admin, options, served)
            );
        });
        Self {
            directory,
            feed,
            jwt_svids,
            clock,
            ca: TestCa::new(NOW),
            stop,
            server,
        }
    }

    fn later(&self, secs: u64) {
        let now = self.clock.now();
        self.clock.set(now.after(Duration::from_secs(secs)));
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("api.sock")
    }

    async fn client(&self) -> WorkloadClient {
        WorkloadClient::connect(&self.socket()).await.unwrap()
    }

    fn entry(&self, id: &str, selector: &str) -> AuthorizedEntry {
        crate::entry::tests::entry(id, &[selector])
    }

    fn signed(&self, entry: AuthorizedEntry) -> ServedEntry {
        let svid = self
            .ca
            .issue(&entry.spiffe_id, Duration::from_secs(3600), NOW);
        ServedEntry {
            entry: Arc::new(entry),
            svid: Some(Arc::new(ServedSvid::new(svid))),
        }
    }

    fn publish(&self, entries: &[ServedEntry], federated: &[&str]) {
        self.publish_with(self.ca.whole_bundle(), entries, federated);
    }

    fn publish_with(&self, own: Bundle, entries: &[ServedEntry], federated: &[&str]) {
        let federated: BTreeMap<_, _> = federated
            .iter()
            .map(|td| (TrustDomain::new(td).unwrap(), Arc::new(foreign_bundle(td))))
            .collect();
        self.feed.publish(Snapshot::new(
            Arc::new(own),
            entries.to_vec(),
            federated,
            EntrySource::Server,
        ));
    }

    async fn channel(&self) -> Channel {
        connect(&self.socket()).await
    }

    async fn admin_channel(&self) -> Channel {
        connect(&self.directory.path().join("admin/admin.sock")).await
    }
}

async fn connect(socket: &Path) -> Channel {
    Endpoint::from_static("http://localhost")
        .connect_with_connector(UnixConnector::new(socket))
        .await
        .unwrap()
}

fn foreign_bundle(td: &str) -> Bundle {
    let ca = TestCa::of(&TrustDomain::new(td).unwrap(), NOW);
    ca.whole_bundle()
}

/// A selector that holds for this test process.
fn own() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

#[tokio::test]
async fn svids_come_whole_in_order_with_their_bundles() {
    let served = TestAgent::start().await;
    let federating = AuthorizedEntry {
        federates_with: vec![TrustDomain::new("other.org").unwrap()],
        hint: "first".into(),
        ..served.entry("a", &own())
    };
    let entries = [
        served.signed(served.entry("b", &own())),
        served.signed(federating),
        served.signed(served.entry("c", "unix:uid:4294967294")),
    ];
    served.publish(&entries, &["other.org", "third.org"]);
    let answer = served
        .client()
        .await
        .x509_svids()
        .await
        .unwrap()
        .message()
        .await
        .unwrap()
        .unwrap();
    let ids: Vec<_> = answer.svids.iter().map(|s| s.spiffe_id.as_str()).collect();
    assert_eq!(ids, ["spiffe://example.org/a", "spiffe://example.org/b"]);
    assert_eq!(answer.svids[0].hint, "first");
    assert_eq!(
        answer.federated_bundles.keys().collect::<Vec<_>>(),
        ["spiffe://other.org"]
    );
    for svid in &answer.svids {
        let parsed =
            countersign_identity::X509Svid::from_der(&svid.x509_svid, &svid.x509_svid_key).unwrap();
        assert_eq!(parsed.id().as_str(), svid.spiffe_id);
        assert_eq!(svid.bundle, served.ca.bundle().x509_der());
    }
    assert!(answer.crl.is_empty());
}

#[tokio::test]
async fn a_stream_follows_changes_and_ends_with_the_identity() {
    let served = TestAgent::start().await;
    let entry = served.entry("a", &own());
    served.publish(&[served.signed(entry.clone())], &[]);
    let mut answers = served.client().await.x509_svids().await.unwrap();
    let first = answers.message().await.unwrap().unwrap();

    served.publish(&[served.signed(entry.clone())], &[]);
    let second = answers.message().await.unwrap().unwrap();
    assert_ne!(
        first.svids[0].x509_svid_key, second.svids[0].x509_svid_key,
        "rotated with a new key"
    );

    served.publish(
        &[
            served.signed(entry),
            served.signed(served.entry("0", &own())),
        ],
        &[],
    );
    assert_eq!(answers.message().await.unwrap().unwrap().svids.len(), 2);

    served.publish(&[], &[]);
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn before_the_first_sync_callers_get_unavailable() {
    let served = TestAgent::start().await;
    let mut client = served.client().await;
    assert_eq!(
        client.x509_svids().await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(
        client.x509_bundles().await.unwrap_err().code(),
        Code::Unavailable
    );
    served.publish(&[], &[]);
    let status = client
        .x509_svids()
        .await
        .unwrap()
        .message()
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    let status = client
        .x509_bundles()
        .await
        .unwrap()
        .message()
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_waits_until_all_matching_svids_are_signed() {
    let served = TestAgent::start().await;
    let (a, b) = (
        served.signed(served.entry("a", &own())),
        served.signed(served.entry("b", &own())),
    );
    let unsigned = ServedEntry {
        svid: None,
        ..b.clone()
    };
    served.publish(&[a.clone(), unsigned], &[]);
    let mut answers = served.client().await.x509_svids().await.unwrap();
    // The subscription exists, so that the next picture is not the first that it sees.
    let (answer, ()) = tokio::join!(answers.message(), async { served.publish(&[a, b], &[]) });
    assert_eq!(answer.unwrap().unwrap().svids.len(), 2);
}

#[tokio::test]
async fn bundles_come_at_once_and_again_only_when_they_changed() {
    let served = TestAgent::start().await;
    let federating = AuthorizedEntry {
        federates_with: vec![TrustDomain::new("other.org").unwrap()],
        ..served.entry("a", &own())
    };
    let unsigned = ServedEntry {
        entry: Arc::new(federating.clone()),
        svid: None,
    };
    served.publish(&[unsigned], &[]);
    let mut answers = served.client().await.x509_bundles().await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!(
        first.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org"]
    );

    // An SVID alone changes nothing here; the bundle that comes after it does.
    let signed = served.signed(federating);
    served.publish(std::slice::from_ref(&signed), &[]);
    served.publish(&[signed], &["other.org"]);
    let second = answers.message().await.unwrap().unwrap();
    let mut keys: Vec<_> = second.bundles.keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["spiffe://example.org", "spiffe://other.org"]);
}

#[tokio::test]
async fn without_the_security_header_nothing_is_answered() {
    let served = TestAgent::start().await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let channel = served.channel().await;
    let mut bare = SpiffeWorkloadApiClient::new(channel);
    let status = bare.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "security header missing from request"
        )
    );
    assert_eq!(
        bare.fetch_jwtsvid(JwtsvidRequest::default())
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn streams_end_with_unavailable_at_the_shutdown() {
    let served = TestAgent::start().await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let mut answers = served.client().await.x509_svids().await.unwrap();
    answers.message().await.unwrap().unwrap();
    served.stop.cancel();
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    drop(answers);
    served.server.await.unwrap();
    assert!(!served.directory.path().join("api.sock").exists());
}

/// What a reader has not taken yet is at most what fits into its connection; the rest of the past is never made.
#[tokio::test]
async fn a_slow_reader_gets_the_newest_and_skips_what_was_in_between() {
    let served = TestAgent::start().await;
    let hinted = |number: usize| AuthorizedEntry {
        hint: format!("{number:01000}"),
        ..served.entry("a", &own())
    };
    let signed = served.signed(hinted(0));
    let with = |number| ServedEntry {
        entry: Arc::new(hinted(number)),
        ..signed.clone()
    };
    served.publish(&[with(0)], &[]);
    let mut answers = served.client().await.x509_svids().await.unwrap();
    const CHANGES: usize = 2_000;
    for number in 1..=CHANGES {
        served.publish(&[with(number)], &[]);
        tokio::task::yield_now().await;
    }
    let mut received = 0;
    loop {
        received += 1;
        let answer = answers.message().await.unwrap().unwrap();
        if answer.svids[0].hint == format!("{CHANGES:01000}") {
            break;
        }
    }
    assert!(
        received < CHANGES / 2,
        "{received} of {CHANGES} answers were kept for a slow reader"
    );
}

#[tokio::test]
async fn one_process_has_a_bounded_number_of_streams() {
    let served = TestAgent::start().await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let mut client = served.client().await;
    let mut open = Vec::new();
    for _ in 0..limits::STREAMS_PER_PROCESS {
        open.push(client.x509_svids().await.unwrap());
    }
    let status = client.x509_svids().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("one process may hold"),
        "{status}"
    );
}

#[tokio::test]
async fn health_is_what_a_workload_would_find() {
    use countersign_proto::grpc::health::v1::HealthCheckRequest;
    use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;
    use countersign_proto::grpc::health::v1::health_client::HealthClient;

    let served = TestAgent::start().await;
    let mut client = served.client().await;
    assert_eq!(
        client.health().await.unwrap(),
        ServingStatus::NotServing,
        "not synced yet"
    );
    served.publish(&[], &[]);
    assert_eq!(
        client.health().await.unwrap(),
        ServingStatus::Serving,
        "no identity is an answer"
    );
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    assert_eq!(client.health().await.unwrap(), ServingStatus::Serving);

    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(UnixConnector::new(served.socket()))
        .await
        .unwrap();
    let one_service = HealthCheckRequest {
        service: "SpiffeWorkloadAPI".into(),
    };
    let status = HealthClient::new(channel)
        .check(one_service)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        WorkloadClient::connect(Path::new("/nowhere/api.sock"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_workload_api_that_is_not_offered_is_unknown_and_no_fault() {
    use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;

    let served = TestAgent::with(ApiConfig {
        workload_api: false,
        sds: Some(crate::config::SdsConfig::default()),
        ..ApiConfig::default()
    })
    .await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let mut client = served.client().await;
    let status = client.x509_svids().await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(client.health().await.unwrap(), ServingStatus::Serving);
}

#[tokio::test]
async fn another_node_agent_takes_its_first_trust_from_here() {
    use crate::node_attestor::{BundleFormat, Rebootstrap, Trust, TrustError, TrustSource};

    let served = TestAgent::start().await;
    let trust = Trust {
        source: TrustSource::WorkloadApi(served.socket()),
        format: BundleFormat::Pem,
        rebootstrap: Rebootstrap::Never,
    };
    served.publish(&[], &[]);
    let error = trust.bundle(&trust_domain()).await.unwrap_err();
    assert!(matches!(error, TrustError::WorkloadApi { .. }));
    assert!(error.to_string().contains("no identity issued"), "{error}");

    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let bundle = trust.bundle(&trust_domain()).await.unwrap().unwrap();
    assert_eq!(bundle.x509_authorities, served.ca.bundle().x509_authorities);
    let other = TrustDomain::new("other.org").unwrap();
    let error = trust.bundle(&other).await.unwrap_err().to_string();
    assert!(error.contains("there is none of other.org"), "{error}");
}
