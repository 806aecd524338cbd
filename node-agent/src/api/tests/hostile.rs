//! Whatever a workload sends, of whatever method: a handler answers, and nothing panics. The twin of the fuzz target
//! `workload_requests`.

use axum::body::Body;
use countersign_transport::{Connection, unix};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tonic::Status;
use tower::ServiceExt as _;

use super::*;

const PUBLIC: [&str; 9] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    "/grpc.health.v1.Health/Check",
];
const ADMIN: [&str; 8] = [
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/FetchJWTSVIDs",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToJWTBundles",
    "/spire.agent.debug.v1.Debug/GetInfo",
    "/spire.api.agent.logger.v1.Logger/GetLogger",
    "/spire.api.agent.logger.v1.Logger/SetLogLevel",
    "/spire.api.agent.logger.v1.Logger/ResetLogLevel",
];

fn sources() -> (Sources, ApiConfig) {
    let (feed, ca) = (Feed::default(), TestCa::new(NOW));
    let entry = crate::entry::tests::entry("a", &[&own()]);
    let svid = ca.issue(&entry.spiffe_id, Duration::from_secs(3600), NOW);
    let config = ApiConfig {
        sds: Some(crate::config::SdsConfig::default()),
        delegates: Arc::new([entry.spiffe_id.clone()].into()),
        ..ApiConfig::default()
    };
    let served = ServedEntry {
        entry: Arc::new(entry),
        svid: Some(Arc::new(ServedSvid::new(svid))),
    };
    let own = Arc::new(ca.whole_bundle());
    feed.publish(Snapshot::new(
        own,
        [served],
        BTreeMap::new(),
        EntrySource::Server,
    ));
    let clock = TestClock::fixed(NOW);
    let sources = Sources {
        jwt_svids: JwtSvids::new(10, feed.clone(), clock.shared()),
        feed,
        attestors: Attestors::new(vec![Arc::new(Unix::new(Discover::UsersOnly))]),
        clock: clock.shared(),
        stop: CancellationToken::new(),
    };
    (sources, config)
}

/// The first message of an answer is one, or its end has a status. Streams that go on are left.
async fn answered(router: Router, path: &str, messages: &[Vec<u8>]) -> bool {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
    }
    let (own, _other) = tokio::net::UnixStream::pair().unwrap();
    let caller = unix::caller(&own).unwrap();
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(SECURITY_HEADER, "true")
        .extension(Arc::new(Connection::unix(caller, CancellationToken::new())))
        .body(Body::from(body))
        .unwrap();
    let answer = router.oneshot(request).await.unwrap();
    if Status::from_header_map(answer.headers()).is_some() {
        return true;
    }
    let first = answer.into_body().frame().await.unwrap().unwrap();
    first.into_trailers().map_or(true, |trailers| {
        Status::from_header_map(&trailers).is_some()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_message_of_any_method_is_answered(messages in prop::collection::vec(any::<Vec<u8>>(), 1..4)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (sources, config) = sources();
            for path in PUBLIC {
                let router = public(&sources, &config, "/nowhere/s".into());
                assert!(answered(router, path, &messages).await, "{path}");
            }
            for path in ADMIN {
                let router = super::super::admin(&sources, &config, Levels::detached(Level::Info));
                assert!(answered(router, path, &messages).await, "{path}");
            }
        });
    }
}
