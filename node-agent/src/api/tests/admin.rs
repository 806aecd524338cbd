//! What administrators and delegates get on the admin socket.

use countersign_identity::SpiffeId;
use countersign_proto::spire::agent::debug::v1::GetInfoRequest;
use countersign_proto::spire::agent::debug::v1::debug_client::DebugClient;
use countersign_proto::spire::api::agent::delegatedidentity::v1 as wire;
use countersign_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_client::DelegatedIdentityClient;
use countersign_proto::spire::api::agent::logger::v1::logger_client::LoggerClient;
use countersign_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::LogLevel;
use tonic::Status;

use super::*;

const OTHER: &str = "unix:uid:4294967294";

struct Delegating {
    served: TestAgent,
    client: DelegatedIdentityClient<Channel>,
}

impl Delegating {
    /// This process is a delegate if it has the entry `proxy`.
    async fn start() -> Self {
        let proxy = SpiffeId::parse("spiffe://example.org/proxy").unwrap();
        let config = ApiConfig {
            delegates: Arc::new([proxy].into()),
            ..ApiConfig::default()
        };
        let served = TestAgent::with(config).await;
        let client = DelegatedIdentityClient::new(served.admin_channel().await);
        Self { served, client }
    }

    fn proxy(&self) -> ServedEntry {
        self.served.signed(self.served.entry("proxy", &own()))
    }

    fn other(&self, id: &str) -> ServedEntry {
        self.served.signed(self.served.entry(id, OTHER))
    }

    async fn x509(
        &mut self,
        selectors: &[&str],
        pid: i32,
    ) -> Result<wire::SubscribeToX509sviDsResponse, Status> {
        let request = wire::SubscribeToX509sviDsRequest {
            selectors: selectors.iter().map(|s| selector(s)).collect(),
            pid,
        };
        let mut answers = self
            .client
            .subscribe_to_x509svi_ds(request)
            .await?
            .into_inner();
        Ok(answers.message().await?.unwrap())
    }
}

fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

fn ids(answer: &wire::SubscribeToX509sviDsResponse) -> Vec<&str> {
    let svids = answer.x509_svids.iter();
    svids
        .map(|svid| {
            svid.x509_svid
                .as_ref()
                .unwrap()
                .id
                .as_ref()
                .unwrap()
                .path
                .as_str()
        })
        .collect()
}

#[tokio::test]
async fn only_an_authorised_delegate_is_answered() {
    let mut delegating = Delegating::start().await;
    let other = delegating.other("a");
    let refused = |status: Status| (status.code(), status.message().to_owned());
    let denied = |text: &str| (Code::PermissionDenied, text.to_owned());
    delegating.served.publish(std::slice::from_ref(&other), &[]);
    assert_eq!(
        refused(delegating.x509(&[OTHER], 0).await.unwrap_err()),
        denied("no identity issued")
    );
    let another = delegating
        .served
        .signed(delegating.served.entry("b", &own()));
    delegating.served.publish(&[another, other.clone()], &[]);
    assert_eq!(
        refused(delegating.x509(&[OTHER], 0).await.unwrap_err()),
        denied("caller not configured as an authorized delegate")
    );
    let bundles = wire::SubscribeToX509BundlesRequest {};
    let status = delegating.client.subscribe_to_x509_bundles(bundles).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);

    let proxy = delegating.proxy();
    delegating.served.publish(&[proxy, other], &[]);
    let answer = delegating.x509(&[OTHER], 0).await.unwrap();
    assert_eq!(ids(&answer), ["/a"]);
    let svid = &answer.x509_svids[0];
    let der: Vec<u8> = svid.x509_svid.as_ref().unwrap().cert_chain.concat();
    let parsed = countersign_identity::X509Svid::from_der(&der, &svid.x509_svid_key).unwrap();
    assert_eq!(parsed.id().as_str(), "spiffe://example.org/a");
}

#[tokio::test]
async fn a_workload_is_named_by_selectors_or_by_pid_and_never_by_both() {
    let mut delegating = Delegating::start().await;
    let (proxy, other) = (delegating.proxy(), delegating.other("a"));
    delegating.served.publish(&[proxy, other], &[]);
    let me = i32::try_from(std::process::id()).unwrap();
    for (selectors, pid) in [(&[OTHER][..], me), (&[], 0)] {
        let status = delegating.x509(selectors, pid).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "must provide either selectors or non-zero PID, but not both"
        );
    }
    let status = delegating.x509(&["unix:"], 0).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "could not parse provided selectors")
    );
    assert_eq!(ids(&delegating.x509(&[], me).await.unwrap()), ["/proxy"]);
    for nobody in [i32::MAX, -1] {
        let status = delegating.x509(&[], nobody).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "workload attestation failed")
        );
    }
    let none = delegating.x509(&["unix:uid:77"], 0).await.unwrap();
    assert!(none.x509_svids.is_empty(), "no match is an empty answer");
}

#[tokio::test]
async fn a_delegate_gets_no_identity_that_is_more_than_a_workloads() {
    let mut delegating = Delegating::start().await;
    let admin = AuthorizedEntry {
        privileged: true,
        federates_with: vec![TrustDomain::new("other.org").unwrap()],
        ..delegating.served.entry("admin", OTHER)
    };
    let entries = [
        delegating.proxy(),
        delegating.served.signed(admin),
        delegating.other("a"),
    ];
    delegating.served.publish(&entries, &["other.org"]);
    let answer = delegating.x509(&[OTHER], 0).await.unwrap();
    assert_eq!(ids(&answer), ["/a"]);
    assert_eq!(answer.federates_with, ["spiffe://other.org"]);
}

#[tokio::test]
async fn a_delegate_that_loses_its_entry_gets_nothing_more() {
    let mut delegating = Delegating::start().await;
    let (proxy, other) = (delegating.proxy(), delegating.other("a"));
    delegating.served.publish(&[proxy, other], &[]);
    let request = wire::SubscribeToX509sviDsRequest {
        selectors: vec![selector(OTHER)],
        pid: 0,
    };
    let answers = delegating.client.subscribe_to_x509svi_ds(request).await;
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let renewed = delegating.other("a");
    delegating.served.publish(&[renewed], &[]);
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
}

#[tokio::test]
async fn bundles_are_all_that_are_known_and_none_goes_during_a_stream() {
    let mut delegating = Delegating::start().await;
    let proxy = delegating.proxy();
    let publish = |foreign: &[&str]| {
        let proxy = std::slice::from_ref(&proxy);
        delegating.served.publish(proxy, foreign);
    };
    publish(&["other.org"]);
    let request = wire::SubscribeToX509BundlesRequest {};
    let x509 = delegating.client.subscribe_to_x509_bundles(request).await;
    let mut x509 = x509.unwrap().into_inner();
    let request = wire::SubscribeToJwtBundlesRequest {};
    let jwt = delegating.client.subscribe_to_jwt_bundles(request).await;
    let mut jwt = jwt.unwrap().into_inner();
    let keys = |mut keys: Vec<String>| {
        keys.sort_unstable();
        keys
    };
    let two = ["spiffe://example.org", "spiffe://other.org"];
    let three = [
        "spiffe://example.org",
        "spiffe://other.org",
        "spiffe://third.org",
    ];
    let first = x509.message().await.unwrap().unwrap().ca_certificates;
    assert_eq!(keys(first.into_keys().collect()), two);
    let first = jwt.message().await.unwrap().unwrap().bundles;
    assert_eq!(keys(first.into_keys().collect()), two);
    publish(&["third.org"]);
    let second = x509.message().await.unwrap().unwrap().ca_certificates;
    assert_eq!(keys(second.into_keys().collect()), three);
    let second = jwt.message().await.unwrap().unwrap().bundles;
    assert_eq!(keys(second.into_keys().collect()), three);
}

#[tokio::test]
async fn the_log_level_changes_and_goes_back() {
    let served = TestAgent::start().await;
    let mut client = LoggerClient::new(served.admin_channel().await);
    let levels = |logger: types::Logger| (logger.current_level(), logger.launch_level());
    let got = client.get_logger(GetLoggerRequest {}).await.unwrap();
    assert_eq!(levels(got.into_inner()), (LogLevel::Info, LogLevel::Info));
    let set = async |client: &mut LoggerClient<Channel>, level: i32| {
        let request = SetLogLevelRequest { new_level: level };
        client.set_log_level(request).await
    };
    let got = set(&mut client, LogLevel::Debug.into()).await.unwrap();
    assert_eq!(levels(got.into_inner()), (LogLevel::Debug, LogLevel::Info));
    for wrong in [0, 99] {
        let status = set(&mut client, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let got = client
        .reset_log_level(ResetLogLevelRequest {})
        .await
        .unwrap();
    assert_eq!(levels(got.into_inner()), (LogLevel::Info, LogLevel::Info));
}

#[tokio::test]
async fn before_the_first_sync_there_is_nothing_to_tell() {
    let served = TestAgent::start().await;
    let mut client = DebugClient::new(served.admin_channel().await);
    let status = client.get_info(GetInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_admin_socket_and_the_public_one_have_nothing_in_common() {
    let served = TestAgent::start().await;
    served.publish(&[], &[]);
    let mut public = DebugClient::new(served.channel().await);
    let status = public.get_info(GetInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut workload = SpiffeWorkloadApiClient::new(served.admin_channel().await);
    let status = workload
        .fetch_x509svid(X509svidRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
