//! Servers below this one: their CAs and their JWT keys.

use std::sync::Mutex;

use countersign_ca::upstream::{BundleUpdates, Minted, Published, UpstreamError};
use countersign_identity::bundle::JwtAuthority;
use countersign_identity::issue::{IssuingCa, SvidTemplate, authority_request};
use countersign_identity::verify::verify_svid;
use countersign_proto::spire::api::server::bundle::v1 as bundles;
use countersign_proto::spire::api::server::svid::v1 as wire;
use tonic::Status;

use super::*;
use crate::limits;

const HOUR: Duration = Duration::from_secs(3_600);

/// The caller of a server whose entry says `-downstream`.
async fn downstream(fixture: &Fixture) -> TestCaller {
    let below = types::Entry {
        downstream: true,
        ..entry("/below", "/spire/agent/x509pop/a")
    };
    create(&fixture.local(), vec![below]).await;
    fixture.peer(id("/below"), "7")
}

fn request(key: &PrivateKey, preferred_ttl: i32) -> wire::NewDownstreamX509caRequest {
    let csr = authority_request(&td(), &Subject::authority(), key).unwrap();
    wire::NewDownstreamX509caRequest {
        csr: csr.into(),
        preferred_ttl,
    }
}

#[tokio::test]
async fn a_downstream_authority_signs_svids_that_lead_to_the_root() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let answer = caller
        .svids()
        .new_downstream_x509ca(request(&key, 3_600))
        .await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.ca_cert_chain.len(), 1);
    let roots: Vec<_> = fixture
        .bundle()
        .x509_authorities
        .iter()
        .map(|root| bytes::Bytes::copy_from_slice(root.der()))
        .collect();
    assert_eq!(answer.x509_authorities, roots);

    let der = CertificateDer::from(answer.ca_cert_chain[0].to_vec());
    let ca = IssuingCa::new(der.clone(), vec![der], Arc::new(key)).unwrap();
    let now = fixture.clock.now();
    assert_eq!(ca.authority().not_after(), now.after(HOUR));
    let leaf_key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let public = countersign_identity::csr::PublicKey::of(&leaf_key).unwrap();
    let template = SvidTemplate {
        id: &id("/workload"),
        dns_names: &[],
        ttl: HOUR,
    };
    let issued = ca.issue(&template, &public, now).unwrap();
    let (leaf, above) = issued.chain.split_first().unwrap();
    verify_svid(leaf, above, &fixture.bundle(), now).unwrap();
}

#[tokio::test]
async fn a_downstream_authority_lives_as_long_as_the_own_by_default() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    for wish in [0, -1, i32::MAX] {
        let answer = caller
            .svids()
            .new_downstream_x509ca(request(&key, wish))
            .await;
        let der = answer.unwrap().into_inner().ca_cert_chain[0].to_vec();
        let authority = countersign_identity::bundle::X509Authority::new(der.into()).unwrap();
        // Whatever the wish, none outlives the one above it.
        let end = fixture.clock.now().after(Duration::from_secs(86_400));
        assert_eq!(authority.not_after(), end, "{wish}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_signed_is_the_callers_fault() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let good = request(&key, 0).csr;
    let mut broken = good.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    for csr in [
        bytes::Bytes::new(),
        "no".into(),
        broken.into(),
        vec![0; limits::MAX_CSR_BYTES + 1].into(),
    ] {
        let request = wire::NewDownstreamX509caRequest {
            csr,
            preferred_ttl: 0,
        };
        let refused = caller.svids().new_downstream_x509ca(request).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn only_downstream_servers_get_authorities_or_publish_keys() {
    let fixture = Fixture::new().await;
    create(
        &fixture.local(),
        vec![entry("/workload", "/spire/agent/x509pop/a")],
    )
    .await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let others = [
        fixture.local(),
        fixture.stranger(),
        fixture.agent("a", &[]).await,
        fixture.peer(id("/workload"), "1"),
        fixture.peer(id("/configured-admin"), "1"),
    ];
    for caller in others {
        let refused = caller.svids().new_downstream_x509ca(request(&key, 0)).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused = publish(&caller, wire_key("k", &key)).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
}

async fn publish(caller: &TestCaller, key: types::JwtKey) -> Result<Vec<types::JwtKey>, Status> {
    let request = bundles::PublishJwtAuthorityRequest {
        jwt_authority: Some(key),
    };
    let answer = caller.bundles().publish_jwt_authority(request).await?;
    Ok(answer.into_inner().jwt_authorities)
}

fn wire_key(key_id: &str, key: &PrivateKey) -> types::JwtKey {
    types::JwtKey {
        public_key: countersign_identity::SigningKey::spki(key).to_vec().into(),
        key_id: key_id.into(),
        expires_at: i64::try_from(START).unwrap() + 60,
        tainted: false,
    }
}

fn ids(keys: &[types::JwtKey]) -> Vec<&str> {
    keys.iter().map(|key| key.key_id.as_str()).collect()
}

fn own_ids(fixture: &Fixture) -> Vec<String> {
    let keys = &fixture.bundle().jwt_authorities;
    keys.iter().map(|key| key.key_id.clone()).collect()
}

#[tokio::test]
async fn a_downstream_key_is_published_once() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let before = fixture.bundle();
    let published = publish(&caller, wire_key("below", &key)).await.unwrap();
    assert!(ids(&published).contains(&"below"));
    assert_eq!(own_ids(&fixture), ids(&published));
    let after = fixture.bundle();
    assert_eq!(after.sequence_number, before.sequence_number + 1);
    publish(&caller, wire_key("below", &key)).await.unwrap();
    assert_eq!(*fixture.bundle(), *after);
}

#[tokio::test]
async fn a_malformed_or_conflicting_key_is_refused() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    publish(&caller, wire_key("taken", &key)).await.unwrap();
    let bundle = fixture.bundle();
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let no_key = types::JwtKey {
        public_key: "no".into(),
        ..wire_key("k", &key)
    };
    for bad in [wire_key("", &key), no_key, wire_key("taken", &other)] {
        let refused = publish(&caller, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with("invalid JWT authority: "),
            "{refused}"
        );
    }
    let missing = bundles::PublishJwtAuthorityRequest::default();
    let refused = caller.bundles().publish_jwt_authority(missing).await;
    assert_eq!(refused.unwrap_err().message(), "missing JWT authority");
    assert_eq!(*fixture.bundle(), *bundle);
}

#[tokio::test]
async fn a_full_bundle_takes_no_more_keys() {
    let fixture = Fixture::new().await;
    let caller = downstream(&fixture).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let keys: Vec<JwtAuthority> = (0..limits::MAX_PUBLISHED_JWT_KEYS)
        .map(|n| wire_key(&n.to_string(), &key).try_into().unwrap())
        .collect();
    let written = fixture
        .store
        .bundle_append(&td(), &[], &keys)
        .await
        .unwrap();
    fixture.index.visible(written).await.unwrap();
    let refused = publish(&caller, wire_key("more", &key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("512"), "{refused}");
}

/// A server above that knows another key, or does not answer.
#[derive(Debug)]
struct Above {
    answers: bool,
    taken: Mutex<Vec<JwtAuthority>>,
}

impl UpstreamAuthority for Above {
    fn name(&self) -> &'static str {
        "above"
    }

    fn mint_x509_ca(
        &self,
        _csr: Vec<u8>,
        _ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>> {
        Box::pin(async {
            Err(UpstreamError {
                name: "above",
                action: "sign",
                source: "it only takes keys".into(),
            })
        })
    }

    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>> {
        Box::pin(async move {
            if !self.answers {
                return Err(UpstreamError {
                    name: "above",
                    action: "publish a JWT key",
                    source: "it is away".into(),
                });
            }
            let mut taken = self.taken.lock().unwrap();
            taken.push(key.clone());
            Ok(Published::Upstream(taken.clone()))
        })
    }

    fn bundle(&self) -> Option<BundleUpdates> {
        None
    }

    fn follow(&self, _stop: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn the_answer_has_all_keys_of_the_upstream_server() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let above = Arc::new(Above {
        answers: true,
        taken: Mutex::new(vec![wire_key("elsewhere", &key).try_into().unwrap()]),
    });
    let fixture = Fixture::below(above.clone()).await;
    let caller = downstream(&fixture).await;
    let published = publish(&caller, wire_key("below", &key)).await.unwrap();
    assert!(ids(&published).ends_with(&["elsewhere", "below"]));
    assert_eq!(own_ids(&fixture), ids(&published));
}

#[tokio::test]
async fn a_key_that_the_upstream_refused_is_not_published() {
    let above = Above {
        answers: false,
        taken: Mutex::default(),
    };
    let fixture = Fixture::below(Arc::new(above)).await;
    let caller = downstream(&fixture).await;
    let before = own_ids(&fixture);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let refused = publish(&caller, wire_key("below", &key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(own_ids(&fixture), before);
}
