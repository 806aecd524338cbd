//! What Envoy gets, over a real socket.

use countersign_proto::envoy::config::core::v3::node::UserAgentVersionType;
use countersign_proto::envoy::config::core::v3::{BuildVersion, DataSource, Node, data_source};
use countersign_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use countersign_proto::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig,
};
use countersign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use countersign_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use countersign_proto::envoy::r#type::v3::SemanticVersion;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::*;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

fn asking(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        type_url: SECRET.into(),
        ..Default::default()
    }
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    let read = |any: &prost_types::Any| {
        assert_eq!(any.type_url, SECRET);
        Secret::decode(any.value.as_slice()).unwrap()
    };
    response.resources.iter().map(read).collect()
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    secrets(response).into_iter().map(|s| s.name).collect()
}

fn text(source: Option<DataSource>) -> String {
    let Some(data_source::Specifier::InlineBytes(bytes)) = source.unwrap().specifier else {
        panic!("not inline")
    };
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Trust domains with their roots, as the SPIFFE validator gets them.
fn validator(secret: &Secret) -> Vec<(String, String)> {
    let Some(Type::ValidationContext(context)) = secret.r#type.clone() else {
        panic!("{secret:?}")
    };
    let config = context.custom_validator_config.unwrap();
    assert_eq!(config.name, "envoy.tls.cert_validator.spiffe");
    let any = config.typed_config.unwrap();
    assert_eq!(
        any.type_url,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
    );
    let config = SpiffeCertValidatorConfig::decode(any.value.as_slice()).unwrap();
    let roots = config.trust_domains.into_iter();
    roots.map(|td| (td.name, text(td.trust_bundle))).collect()
}

struct Envoy {
    served: TestAgent,
    client: SecretDiscoveryServiceClient<Channel>,
}

impl Envoy {
    async fn start() -> Self {
        let served = TestAgent::start().await;
        let client = SecretDiscoveryServiceClient::new(served.channel().await);
        Self { served, client }
    }

    fn entries(&self) -> [ServedEntry; 2] {
        let federating = AuthorizedEntry {
            federates_with: vec![TrustDomain::new("other.org").unwrap()],
            hint: "same".into(),
            ..self.served.entry("a", &own())
        };
        let hinted = AuthorizedEntry {
            hint: "same".into(),
            ..self.served.entry("b", &own())
        };
        [self.served.signed(federating), self.served.signed(hinted)]
    }

    async fn fetch(&mut self, request: DiscoveryRequest) -> Result<DiscoveryResponse, Status> {
        Ok(self.client.fetch_secrets(request).await?.into_inner())
    }

    async fn stream(&mut self) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
        let (send, requests) = mpsc::channel(8);
        let answers = self
            .client
            .stream_secrets(ReceiverStream::new(requests))
            .await;
        (send, answers.unwrap().into_inner())
    }

    async fn delta(
        &mut self,
    ) -> (
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ) {
        let (send, requests) = mpsc::channel(8);
        let answers = self
            .client
            .delta_secrets(ReceiverStream::new(requests))
            .await;
        (send, answers.unwrap().into_inner())
    }
}

#[tokio::test]
async fn each_name_is_answered_as_what_it_stands_for() {
    let mut envoy = Envoy::start().await;
    let entries = envoy.entries();
    envoy.served.publish(&entries, &["other.org"]);

    let all = envoy.fetch(asking(&[])).await.unwrap();
    assert_eq!(
        names(&all),
        [
            "spiffe://example.org",
            "spiffe://other.org",
            "spiffe://example.org/a",
            "spiffe://example.org/b"
        ],
        "everything by its SPIFFE name, hints notwithstanding"
    );
    assert_eq!((all.version_info.as_str(), all.nonce.as_str()), ("", ""));
    assert_eq!(all.type_url, SECRET);

    let usual = envoy.fetch(asking(&["default", "ROOTCA"])).await.unwrap();
    assert_eq!(names(&usual), ["ROOTCA", "default"]);
    let both = secrets(&usual);
    let roots = validator(&both[0]);
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].0, "example.org");
    assert!(roots[0].1.starts_with("-----BEGIN CERTIFICATE-----"));
    let Some(Type::TlsCertificate(certificate)) = both[1].r#type.clone() else {
        panic!("{both:?}")
    };
    let svid = entries[0].svid.as_ref().unwrap().svid();
    let chain = crate::pem::read_certificates(text(certificate.certificate_chain).as_bytes());
    assert_eq!(chain.unwrap(), svid.chain());
    let key = text(certificate.private_key);
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(
        *crate::pem::read_private_key(key.as_bytes()).unwrap(),
        *svid.key().to_pkcs8()
    );

    let everyone = envoy.fetch(asking(&["ALL"])).await.unwrap();
    let roots = validator(&secrets(&everyone)[0]);
    let trust_domains: Vec<_> = roots.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(trust_domains, ["example.org", "other.org"]);
}

#[tokio::test]
async fn names_that_stand_for_nothing_are_refused_by_name() {
    let mut envoy = Envoy::start().await;
    let entries = envoy.entries();
    envoy.served.publish(&entries, &[]);
    for (asked, unknown) in [
        (&["default", "nobody"][..], r#"["nobody"]"#),
        (&["spiffe://other.org"], r#"["spiffe://other.org"]"#),
        (&["ROOTCA", "ALL"], r#"["ALL"]"#),
        (
            &["spiffe://example.org", "ROOTCA", "ALL"],
            r#"["ALL" "ROOTCA"]"#,
        ),
        (&["default", "spiffe://example.org/a"], r#"["default"]"#),
    ] {
        let status = envoy.fetch(asking(asked)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            format!("workload is not authorized for the requested identities {unknown}")
        );
    }
    // Bundles need no identity.
    envoy.served.publish(&[], &[]);
    let roots = envoy.fetch(asking(&["ROOTCA"])).await.unwrap();
    assert_eq!(names(&roots), ["ROOTCA"]);
    let status = envoy.fetch(asking(&["default"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_envoy_without_the_validator_gets_root_certificates() {
    let mut envoy = Envoy::start().await;
    envoy.served.publish(&[], &[]);
    let metadata = |value: prost_types::value::Kind| Node {
        metadata: Some(prost_types::Struct {
            fields: [(
                "disable_spiffe_cert_validation".to_owned(),
                prost_types::Value { kind: Some(value) },
            )]
            .into(),
        }),
        ..Default::default()
    };
    let version = |major_number, minor_number| Node {
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(SemanticVersion {
                major_number,
                minor_number,
                patch: 9,
            }),
        })),
        ..Default::default()
    };
    use prost_types::value::Kind;
    for (node, roots) in [
        (Node::default(), false),
        (metadata(Kind::BoolValue(true)), true),
        (metadata(Kind::BoolValue(false)), false),
        (metadata(Kind::StringValue("true".into())), true),
        (metadata(Kind::StringValue("no".into())), false),
        (version(1, 17), true),
        (version(1, 18), false),
        (version(2, 0), false),
        (version(0, 99), true),
    ] {
        let request = |name| DiscoveryRequest {
            node: Some(node.clone()),
            ..asking(&[name])
        };
        let answer = envoy.fetch(request("ROOTCA")).await.unwrap();
        let Some(Type::ValidationContext(context)) = secrets(&answer)[0].r#type.clone() else {
            panic!("{answer:?}")
        };
        assert_eq!(context.trusted_ca.is_some(), roots, "{node:?}");
        let all = envoy.fetch(request("ALL")).await;
        assert_eq!(all.is_err(), roots);
        if let Err(status) = all {
            assert_eq!(status.code(), Code::Internal);
        }
    }
}

#[tokio::test]
async fn a_stream_answers_new_names_and_news_and_nothing_else() {
    let mut envoy = Envoy::start().await;
    let entries = envoy.entries();
    envoy.served.publish(&entries, &[]);
    let (send, mut answers) = envoy.stream().await;
    send.send(asking(&["default"])).await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!(first.version_info, "1");
    assert_eq!(first.nonce.len(), 8);
    let reply = |to: &DiscoveryResponse, names: &[&str]| DiscoveryRequest {
        version_info: to.version_info.clone(),
        response_nonce: to.nonce.clone(),
        ..asking(names)
    };
    // A confirmation, a rejection and what is about no answer at all get none; other names do.
    send.send(reply(&first, &["default"])).await.unwrap();
    let rejection = DiscoveryRequest {
        error_detail: Some(countersign_proto::google::rpc::Status {
            code: 3,
            message: "no".into(),
        }),
        ..reply(&first, &["default"])
    };
    send.send(rejection).await.unwrap();
    send.send(asking(&["ROOTCA"])).await.unwrap();
    send.send(reply(&first, &["default", "ROOTCA"]))
        .await
        .unwrap();
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!(names(&second), ["ROOTCA", "default"]);
    assert_eq!(second.version_info, "1", "nothing has changed");
    assert_ne!(second.nonce, first.nonce);

    envoy.served.publish(&envoy.entries(), &[]);
    let third = answers.message().await.unwrap().unwrap();
    assert_eq!(third.version_info, "2");
    assert_eq!(names(&third), names(&second));

    // What it asked for is gone: the stream ends.
    envoy.served.publish(&[], &[]);
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_waits_for_all_svids_and_ends_with_the_caller() {
    let mut envoy = Envoy::start().await;
    let [a, b] = envoy.entries();
    let unsigned = ServedEntry {
        svid: None,
        ..b.clone()
    };
    envoy.served.publish(&[a.clone(), unsigned], &[]);
    let status = envoy.fetch(asking(&[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let (send, mut answers) = envoy.stream().await;
    send.send(asking(&["default"])).await.unwrap();
    let (answer, ()) = tokio::join!(answers.message(), async {
        envoy.served.publish(&[a, b], &[]);
    });
    assert_eq!(answer.unwrap().unwrap().version_info, "1");
    drop(send);
    assert!(answers.message().await.unwrap().is_none());
}

fn subscribing(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: SECRET.into(),
        resource_names_subscribe: own(subscribe),
        resource_names_unsubscribe: own(unsubscribe),
        ..Default::default()
    }
}

fn told(response: &DeltaDiscoveryResponse) -> (Vec<&str>, Vec<&str>) {
    let there = response.resources.iter().map(|r| r.name.as_str());
    let gone = response.removed_resources.iter().map(String::as_str);
    (there.collect(), gone.collect())
}

#[tokio::test]
async fn incremental_streams_send_changes_and_name_removals() {
    let mut envoy = Envoy::start().await;
    let entries = envoy.entries();
    envoy.served.publish(&entries, &[]);
    let (send, mut answers) = envoy.delta().await;
    let first = subscribing(&["default", "ROOTCA", "spiffe://example.org/z"], &[]);
    send.send(first).await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    let absent = vec!["spiffe://example.org/z"];
    assert_eq!(told(&first), (vec!["ROOTCA", "default"], absent.clone()));
    assert_eq!(first.type_url, SECRET);
    assert!(!first.nonce.is_empty());
    let resource = &first.resources[1];
    let secret = resource.resource.as_ref().unwrap();
    assert_eq!(
        Secret::decode(secret.value.as_slice()).unwrap().name,
        "default"
    );

    // A confirmation has no answer; the SVID alone is new, the roots are not; then the absent one comes.
    let confirmation = DeltaDiscoveryRequest {
        response_nonce: first.nonce.clone(),
        ..subscribing(&[], &[])
    };
    send.send(confirmation).await.unwrap();
    envoy.served.publish(&envoy.entries(), &[]);
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&second), (vec!["default"], vec![]));
    assert_ne!(second.resources[0].version, resource.version);
    let z = envoy.served.signed(envoy.served.entry("z", &own()));
    let mut more = envoy.entries().to_vec();
    more.push(z.clone());
    envoy.served.publish(&more, &[]);
    let third = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&third).0, ["default", "spiffe://example.org/z"]);

    // What is not wanted any more is not told of, and what is asked for again is sent again.
    send.send(subscribing(&["ROOTCA"], &["default"]))
        .await
        .unwrap();
    let fourth = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&fourth), (vec!["ROOTCA"], vec![]));
    envoy.served.publish(&[], &[]);
    let fifth = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&fifth), (vec![], absent));
}

#[tokio::test]
async fn after_a_reconnect_what_is_there_already_is_not_sent_again() {
    let mut envoy = Envoy::start().await;
    let entries = envoy.entries();
    envoy.served.publish(&entries, &[]);
    let (send, mut answers) = envoy.delta().await;
    send.send(subscribing(&["default", "ROOTCA"], &[]))
        .await
        .unwrap();
    let first = answers.message().await.unwrap().unwrap();
    drop((send, answers));

    let (send, mut answers) = envoy.delta().await;
    let had = first.resources.iter();
    let mut again = subscribing(&["default", "ROOTCA"], &[]);
    again.initial_resource_versions = had.map(|r| (r.name.clone(), r.version.clone())).collect();
    again
        .initial_resource_versions
        .insert("ROOTCA".into(), "old".into());
    send.send(again).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&answer), (vec!["ROOTCA"], vec![]));

    // Without names at the beginning: everything, as it comes and goes.
    let (send, mut answers) = envoy.delta().await;
    send.send(subscribing(&[], &[])).await.unwrap();
    let all = answers.message().await.unwrap().unwrap();
    assert_eq!(all.resources.len(), 3);
    envoy.served.publish(&entries[..1], &[]);
    let fewer = answers.message().await.unwrap().unwrap();
    assert_eq!(told(&fewer), (vec![], vec!["spiffe://example.org/b"]));
}

#[tokio::test]
async fn names_of_one_stream_are_bounded() {
    let mut envoy = Envoy::start().await;
    envoy.served.publish(&[], &[]);
    let many: Vec<String> = (0..=limits::SDS_NAMES).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(limits::SDS_NAME_BYTES + 1);
    for (names, code) in [
        (many, Code::ResourceExhausted),
        (vec![long.as_str()], Code::InvalidArgument),
    ] {
        let (send, mut answers) = envoy.delta().await;
        send.send(subscribing(&names, &[])).await.unwrap();
        assert_eq!(answers.message().await.unwrap_err().code(), code);
        let (send, mut answers) = envoy.stream().await;
        send.send(asking(&names)).await.unwrap();
        assert_eq!(answers.message().await.unwrap_err().code(), code);
        let refused = envoy.fetch(asking(&names)).await.unwrap_err();
        assert_eq!(refused.code(), code);
    }
}

#[tokio::test]
async fn without_sds_the_service_is_not_there() {
    let served = TestAgent::with(ApiConfig::default()).await;
    served.publish(&[], &[]);
    let mut client = SecretDiscoveryServiceClient::new(served.channel().await);
    let status = client.fetch_secrets(asking(&[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
