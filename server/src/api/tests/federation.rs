//! Foreign bundles, and relationships with foreign trust domains.

use countersign_proto::spire::api::server::bundle::v1 as bundles;
use countersign_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use countersign_proto::spire::api::server::trustdomain::v1 as wire;
use countersign_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use countersign_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use super::*;

impl TestCaller {
    fn relationships(&self) -> TrustDomainClient<Self> {
        TrustDomainClient::new(self.clone())
    }
}

fn bundle(td: &str, hint: i64) -> types::Bundle {
    types::Bundle {
        trust_domain: td.into(),
        refresh_hint: hint,
        sequence_number: 7,
        ..Default::default()
    }
}

fn relationship(td: &str) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: td.into(),
        bundle_endpoint_url: format!("https://{td}:8443/"),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})),
        trust_domain_bundle: None,
    }
}

fn told(status: Option<types::Status>) -> (Code, String) {
    let status = status.unwrap();
    (code(&status), status.message)
}

fn said(code: Code, message: &str) -> (Code, String) {
    (code, message.into())
}

fn fine() -> (Code, String) {
    said(Code::Ok, "OK")
}

/// Sets bundles, and says what came of each.
async fn set(caller: &TestCaller, bundle: Vec<types::Bundle>) -> Vec<(Code, String)> {
    let request = bundles::BatchSetFederatedBundleRequest {
        bundle,
        output_mask: None,
    };
    let answer = caller.bundles().batch_set_federated_bundle(request).await;
    let results = answer.unwrap().into_inner().results;
    results.into_iter().map(|r| told(r.status)).collect()
}

async fn delete(caller: &TestCaller, tds: &[&str], mode: Mode) -> Vec<(Code, String)> {
    let request = bundles::BatchDeleteFederatedBundleRequest {
        trust_domains: tds.iter().map(ToString::to_string).collect(),
        mode: mode.into(),
    };
    let answer = caller
        .bundles()
        .batch_delete_federated_bundle(request)
        .await;
    let results = answer.unwrap().into_inner().results;
    results.into_iter().map(|r| told(r.status)).collect()
}

async fn listed(caller: &TestCaller) -> Vec<types::Bundle> {
    let request = bundles::ListFederatedBundlesRequest::default();
    let answer = caller.bundles().list_federated_bundles(request).await;
    answer.unwrap().into_inner().bundles
}

async fn make(
    caller: &TestCaller,
    federation_relationships: Vec<types::FederationRelationship>,
) -> Vec<(Code, String)> {
    let request = wire::BatchCreateFederationRelationshipRequest {
        federation_relationships,
        output_mask: None,
    };
    let answer = caller
        .relationships()
        .batch_create_federation_relationship(request)
        .await;
    let results = answer.unwrap().into_inner().results;
    results.into_iter().map(|r| told(r.status)).collect()
}

async fn one(
    caller: &TestCaller,
    td: &str,
) -> Result<types::FederationRelationship, tonic::Status> {
    let request = wire::GetFederationRelationshipRequest {
        trust_domain: td.into(),
        output_mask: None,
    };
    let mut client = caller.relationships();
    let answer = client.get_federation_relationship(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_bundle_is_created_once_with_a_status_for_each_item() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().bundles();
    let mut broken = bundle("broken.org", 5);
    broken.x509_authorities = vec![types::X509Certificate::default()];
    let request = bundles::BatchCreateFederatedBundleRequest {
        bundle: vec![
            bundle("other.org", 5),
            bundle("spiffe://other.org", 6),
            bundle("example.org", 5),
            bundle("Bad", 5),
            broken,
        ],
        output_mask: Some(types::BundleMask {
            refresh_hint: true,
            ..Default::default()
        }),
    };
    let answer = client.batch_create_federated_bundle(request).await.unwrap();
    let results = answer.into_inner().results;
    let masked = types::Bundle {
        sequence_number: 0,
        ..bundle("other.org", 5)
    };
    assert_eq!(results[0].bundle, Some(masked));
    let told: Vec<_> = results.into_iter().map(|r| told(r.status)).collect();
    assert_eq!(told[0], fine());
    assert_eq!(told[1], said(Code::AlreadyExists, "bundle already exists"));
    let own = "creating a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(told[2], said(Code::InvalidArgument, own));
    assert_eq!(told[3].0, Code::InvalidArgument);
    assert!(
        told[3]
            .1
            .starts_with("trust domain argument is not valid: ")
    );
    assert_eq!(told[4].0, Code::InvalidArgument);
    let start = "failed to convert bundle: unable to parse X.509 authority: ";
    assert!(told[4].1.starts_with(start), "{}", told[4].1);
    assert_eq!(listed(&fixture.local()).await, [bundle("other.org", 5)]);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().bundles();
    set(&fixture.local(), vec![bundle("other.org", 5)]).await;
    let mask = types::BundleMask {
        refresh_hint: true,
        ..Default::default()
    };
    let mut changed = bundle("other.org", 9);
    changed.sequence_number = 100;
    let request = bundles::BatchUpdateFederatedBundleRequest {
        bundle: vec![changed.clone(), bundle("nobody.org", 5)],
        input_mask: Some(mask),
        output_mask: None,
    };
    let answer = client.batch_update_federated_bundle(request).await.unwrap();
    let results = answer.into_inner().results;
    assert_eq!(results[0].bundle, Some(bundle("other.org", 9)));
    let missing = said(Code::NotFound, "bundle not found");
    assert_eq!(told(results[1].status.clone()), missing);
    let whole = bundles::BatchUpdateFederatedBundleRequest {
        bundle: vec![changed.clone()],
        ..Default::default()
    };
    client.batch_update_federated_bundle(whole).await.unwrap();
    assert_eq!(listed(&fixture.local()).await, [changed]);
}

#[tokio::test]
async fn a_bundle_is_set_whether_it_was_there_or_not() {
    let fixture = Fixture::new().await;
    let local = fixture.local();
    for hint in [5, 6] {
        let statuses = set(&local, vec![bundle("other.org", hint)]).await;
        assert_eq!(statuses, [fine()]);
        assert_eq!(listed(&local).await, [bundle("other.org", hint)]);
    }
    let own = "setting a federated bundle for the server's own trust domain is not allowed";
    let statuses = set(&local, vec![bundle("example.org", 5)]).await;
    assert_eq!(statuses, [said(Code::InvalidArgument, own)]);
}

#[tokio::test]
async fn the_mode_decides_about_federating_entries() {
    let fixture = Fixture::new().await;
    let local = fixture.local();
    let federating = |path: &str| types::Entry {
        federates_with: vec!["other.org".into()],
        ..entry(path, "/spire/agent/x509pop/a")
    };
    set(&local, vec![bundle("other.org", 5)]).await;
    create(&local, vec![federating("/a")]).await;
    let kept = "failed to delete federated bundle: cannot delete bundle; federated with 1 registration entries";
    assert_eq!(
        delete(&local, &["other.org"], Mode::Restrict).await,
        [said(Code::FailedPrecondition, kept)]
    );
    assert_eq!(
        delete(&local, &["other.org"], Mode::Dissociate).await,
        [fine()]
    );
    let filter = crate::index::EntryFilter::default();
    let left = fixture.index.entries(&filter, crate::index::Page::All);
    assert!(left[0].value.federates_with.is_empty());
    set(&local, vec![bundle("other.org", 5)]).await;
    create(&local, vec![federating("/b")]).await;
    assert_eq!(delete(&local, &["other.org"], Mode::Delete).await, [fine()]);
    assert_eq!(fixture.index.count_entries(&filter), 1);
    let own = "removing the bundle for the server trust domain is not allowed";
    assert_eq!(
        delete(&local, &["other.org", "example.org"], Mode::Restrict).await,
        [
            said(Code::NotFound, "bundle not found"),
            said(Code::InvalidArgument, own)
        ]
    );
}

#[tokio::test]
async fn relationships_are_made_read_changed_and_removed() {
    let fixture = Fixture::new().await;
    let local = fixture.local();
    let mut with_bundle = relationship("other.org");
    with_bundle.trust_domain_bundle = Some(bundle("other.org", 5));
    let mut bad_url = relationship("bad.org");
    bad_url.bundle_endpoint_url = "http://bad.org".into();
    let statuses = make(
        &local,
        vec![
            with_bundle.clone(),
            relationship("other.org"),
            relationship("example.org"),
            bad_url,
        ],
    );
    let statuses = statuses.await;
    assert_eq!(statuses[0], fine());
    // As against SPIRE, a second one is no AlreadyExists.
    assert_eq!(statuses[1].0, Code::Internal);
    let own = "unable to create federation relationship for server trust domain";
    assert_eq!(statuses[2], said(Code::InvalidArgument, own));
    let url =
        "failed to convert federation relationship: bundle endpoint URL must use the https scheme";
    assert_eq!(statuses[3], said(Code::InvalidArgument, url));
    assert_eq!(one(&local, "other.org").await.unwrap(), with_bundle);
    let missing = one(&local, "nobody.org").await.unwrap_err();
    let want = (Code::NotFound, "federation relationship does not exist");
    assert_eq!((missing.code(), missing.message()), want);

    let mut moved = relationship("other.org");
    moved.bundle_endpoint_url = "https://elsewhere.org".into();
    moved.trust_domain_bundle = Some(bundle("other.org", 9));
    let request = wire::BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![moved.clone(), relationship("nobody.org")],
        input_mask: Some(types::FederationRelationshipMask {
            bundle_endpoint_url: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let mut client = local.relationships();
    let answer = client.batch_update_federation_relationship(request).await;
    let results = answer.unwrap().into_inner().results;
    moved.trust_domain_bundle = Some(bundle("other.org", 5));
    assert_eq!(results[0].federation_relationship, Some(moved));
    assert_eq!(told(results[1].status.clone()).0, Code::Internal);

    let request = wire::BatchDeleteFederationRelationshipRequest {
        trust_domains: ["spiffe://other.org", "other.org", ""]
            .map(Into::into)
            .into(),
    };
    let answer = client.batch_delete_federation_relationship(request).await;
    let results = answer.unwrap().into_inner().results;
    assert_eq!(results[0].trust_domain, "other.org");
    let told: Vec<_> = results.into_iter().map(|r| told(r.status)).collect();
    let missing = said(Code::NotFound, "federation relationship not found");
    let empty = said(Code::InvalidArgument, "missing trust domain");
    assert_eq!(told, [fine(), missing, empty]);
    assert_eq!(listed(&local).await, [bundle("other.org", 5)]);
}

#[tokio::test]
async fn relationships_are_paged_in_order_of_creation() {
    let fixture = Fixture::new().await;
    let local = fixture.local();
    let all = ["c.org", "a.org", "b.org"];
    make(&local, all.map(relationship).into()).await;
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = wire::ListFederationRelationshipsRequest {
            output_mask: Some(types::FederationRelationshipMask::default()),
            page_size: 2,
            page_token,
        };
        let mut client = local.relationships();
        let page = client.list_federation_relationships(request).await;
        let page = page.unwrap().into_inner();
        found.extend(page.federation_relationships);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let bare = |td: &str| types::FederationRelationship {
        trust_domain: td.into(),
        ..Default::default()
    };
    assert_eq!(found, all.map(bare));
}

#[tokio::test]
async fn only_what_is_followed_is_refreshed() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().relationships();
    let request = |td: &str| wire::RefreshBundleRequest {
        trust_domain: td.into(),
    };
    let unknown = client
        .refresh_bundle(request("other.org"))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(
        unknown.message(),
        r#"no relationship with trust domain "other.org""#
    );
    let invalid = client.refresh_bundle(request("")).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    let mut unverifiable = relationship("other.org");
    unverifiable.bundle_endpoint_profile = Some(BundleEndpointProfile::HttpsSpiffe(
        types::HttpsspiffeProfile {
            endpoint_spiffe_id: "spiffe://other.org/spire/server".into(),
        },
    ));
    assert_eq!(make(&fixture.local(), vec![unverifiable]).await, [fine()]);
    let failed = client
        .refresh_bundle(request("other.org"))
        .await
        .unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    let start = "failed to refresh bundle: no bundle of trust domain \"other.org\" is stored";
    assert!(failed.message().starts_with(start), "{}", failed.message());
}
