//! X.509-SVIDs minted from requests of administrators.

use countersign_proto::spire::api::server::svid::v1 as wire;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::*;

/// A request with these names and this subject.
fn request(uris: &[&str], dns: &[&str], subject: &[(DnType, &str)]) -> bytes::Bytes {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (attribute, value) in subject {
        params.distinguished_name.push(attribute.clone(), *value);
    }
    let uris = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let dns = dns
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names = uris.chain(dns).collect();
    let csr = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap();
    csr.der().to_vec().into()
}

async fn mint(
    fixture: &Fixture,
    csr: bytes::Bytes,
    ttl: i32,
) -> Result<types::X509svid, tonic::Status> {
    let request = wire::MintX509svidRequest { csr, ttl };
    let answer = fixture.local().svids().mint_x509svid(request).await?;
    Ok(answer.into_inner().svid.unwrap())
}

fn subject(svid: &types::X509svid) -> String {
    let (_, certificate) = X509Certificate::from_der(&svid.cert_chain[0]).unwrap();
    certificate.subject().to_string()
}

#[tokio::test]
async fn an_svid_has_the_names_the_key_and_the_subject_of_its_request() {
    let fixture = Fixture::new().await;
    let names = ["b.example.org", "a.example.org", "*.example.net"];
    let csr = request(&["spiffe://example.org/w"], &names, &[]);
    let svid = mint(&fixture, csr.clone(), 0).await.unwrap();
    let leaf = fixture.verified(&svid);
    assert_eq!(
        (&leaf.id, svid.id.clone()),
        (&id("/w"), Some((&id("/w")).into()))
    );
    assert_eq!(leaf.not_after.as_secs(), START + 3_600);
    assert_eq!(leaf.spki, Csr::parse(&csr).unwrap().public_key().spki());
    assert_eq!(subject(&svid), "C=US, O=SPIRE, CN=b.example.org");
    let (_, certificate) = X509Certificate::from_der(&svid.cert_chain[0]).unwrap();
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    let dns: Vec<&str> = san
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(dns, names);

    let own = [
        (DnType::CommonName, "me"),
        (DnType::OrganizationName, "Acme"),
        (DnType::CountryName, "DE"),
    ];
    let csr = request(&["spiffe://example.org/w"], &[], &own);
    let svid = mint(&fixture, csr, 60).await.unwrap();
    assert_eq!(subject(&svid), "C=DE, O=Acme, CN=me");
    assert_eq!(fixture.verified(&svid).not_after.as_secs(), START + 60);
    // The first DNS name goes before the request's common name.
    let csr = request(&["spiffe://example.org/w"], &["a.example.org"], &own);
    let svid = mint(&fixture, csr, -5).await.unwrap();
    assert_eq!(subject(&svid), "C=DE, O=Acme, CN=a.example.org");
    assert_eq!(fixture.verified(&svid).not_after.as_secs(), START + 3_600);
}

#[tokio::test]
async fn each_fault_of_a_mint_request_is_reported() {
    let fixture = Fixture::new().await;
    let mut forged = request(&["spiffe://example.org/w"], &[], &[]).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let with = |uris: &[&str], dns: &[&str]| request(uris, dns, &[]);
    let workload = "spiffe://example.org/w";
    for (csr, message) in [
        (bytes::Bytes::new(), "missing CSR"),
        ("junk".into(), "malformed CSR: "),
        (forged.into(), "failed to verify CSR signature: "),
        (with(&[], &[]), "CSR URI SAN is required"),
        (
            with(&[workload, workload], &[]),
            "only one URI SAN is expected",
        ),
        (
            with(&["https://a/b"], &[]),
            "CSR URI SAN is invalid: scheme is missing or invalid",
        ),
        (
            with(&["spiffe://other.org/w"], &[]),
            "CSR URI SAN is invalid: \"spiffe://other.org/w\" is not a member of trust domain \"example.org\"",
        ),
        (
            with(&["spiffe://example.org"], &[]),
            "CSR URI SAN is invalid: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path \
             is empty",
        ),
        (
            with(&["spiffe://example.org/spire/agent/a"], &[]),
            "CSR URI SAN is invalid: \"spiffe://example.org/spire/agent/a\" is not a workload in trust domain \
             \"example.org\"; path is in the reserved namespace",
        ),
        (with(&[workload], &["a..b"]), "CSR DNS name is invalid: "),
        (
            with(&[workload], &["*.example.org", "a.example.org"]),
            "CSR DNS name contains a wildcard that covers another non-wildcard name: name \"a.example.org\" overlaps \
             with an existing wildcard name in the list: wildcard overlap",
        ),
    ] {
        let refused = mint(&fixture, csr, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(message), "{refused}");
    }
}
