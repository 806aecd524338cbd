//! Bundles and health.

use countersign_identity::issue::self_signed_authority;
use countersign_proto::grpc::health::v1 as health;
use countersign_proto::spire::api::server::bundle::v1 as wire;

use super::*;

#[tokio::test]
async fn anybody_gets_the_servers_bundle() {
    let fixture = Fixture::new().await;
    let mut client = fixture.stranger().bundles();
    let whole = client
        .get_bundle(wire::GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(whole.trust_domain, "example.org");
    let own = countersign_identity::Bundle::try_from(whole.clone()).unwrap();
    assert_eq!(own, *fixture.bundle());
    assert!(!own.x509_authorities.is_empty());
    let mask = types::BundleMask {
        sequence_number: true,
        ..Default::default()
    };
    let masked = wire::GetBundleRequest {
        output_mask: Some(mask),
    };
    let masked = client.get_bundle(masked).await.unwrap().into_inner();
    assert!(masked.x509_authorities.is_empty());
    assert_eq!(masked.sequence_number, whole.sequence_number);
}

#[tokio::test]
async fn authorities_are_appended_once() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().bundles();
    let before = fixture.bundle();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let hour = Duration::from_secs(3_600);
    let root = self_signed_authority(
        &td(),
        &Subject::authority(),
        &key,
        hour,
        fixture.clock.now(),
    )
    .unwrap();
    let authority = types::X509Certificate {
        asn1: root.to_vec().into(),
        tainted: true,
    };
    let request = wire::AppendBundleRequest {
        x509_authorities: vec![authority],
        ..Default::default()
    };
    let after = client
        .append_bundle(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(after.sequence_number, before.sequence_number + 1);
    assert_eq!(
        after.x509_authorities.len(),
        before.x509_authorities.len() + 1
    );
    assert!(after.x509_authorities.iter().all(|a| !a.tainted));
    let again = client
        .append_bundle(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.sequence_number, after.sequence_number);
    let empty = client
        .append_bundle(wire::AppendBundleRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (empty.code(), empty.message()),
        (Code::InvalidArgument, "no authorities to append")
    );
    let mut bad = request;
    bad.x509_authorities[0].asn1 = "no".into();
    assert_eq!(
        client.append_bundle(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn bundles_of_other_trust_domains_are_read() {
    let fixture = Fixture::new().await;
    let other = TrustDomain::new("other.org").unwrap();
    let appended = fixture.store.bundle_append(&other, &[], &[]).await;
    fixture.index.visible(appended.unwrap()).await.unwrap();
    let mut client = fixture.agent("a", &[]).await.bundles();
    let get = |td: &str| wire::GetFederatedBundleRequest {
        trust_domain: td.into(),
        output_mask: None,
    };
    let found = client
        .get_federated_bundle(get("other.org"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.trust_domain, "other.org");
    assert!(
        client
            .get_federated_bundle(get("spiffe://other.org"))
            .await
            .is_ok()
    );
    let missing = client
        .get_federated_bundle(get("nobody.org"))
        .await
        .unwrap_err();
    assert_eq!(
        (missing.code(), missing.message()),
        (Code::NotFound, "bundle not found")
    );
    for bad in ["example.org", "Bad", ""] {
        let status = client.get_federated_bundle(get(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
    }
    let mut admin = fixture.local().bundles();
    let all = admin
        .list_federated_bundles(wire::ListFederatedBundlesRequest::default())
        .await;
    let all = all.unwrap().into_inner().bundles;
    assert_eq!(
        all.iter()
            .map(|b| b.trust_domain.as_str())
            .collect::<Vec<_>>(),
        ["other.org"]
    );
    let count = admin
        .count_bundles(wire::CountBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(count.count, 2);
}

#[tokio::test]
async fn a_server_with_a_bundle_is_healthy() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().health();
    let whole = client
        .check(health::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        whole.status(),
        health::health_check_response::ServingStatus::Serving
    );
    let part = client
        .check(health::HealthCheckRequest {
            service: "x".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(part.code(), Code::InvalidArgument);
    assert_eq!(part.message(), "per-service health is not supported");
}
