//! Authorities below others, judged by the verifier.

use std::sync::Arc;

use rustls_pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;
use crate::Bundle;
use crate::issue::{SvidTemplate, self_signed_authority};
use crate::key::{KeyType, PrivateKey};
use crate::verify::{PeerError, VerifiedLeaf, verify_svid};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::new("ai-agents.org").unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn root() -> IssuingCa {
    let key = key();
    let subject = Subject::authority();
    let cert = self_signed_authority(&trust_domain(), &subject, &key, 24 * HOUR, NOW).unwrap();
    IssuingCa::new(cert, Vec::new(), Arc::new(key)).unwrap()
}

/// A server's authority right below another's.
fn below(parent: &IssuingCa, ttl: Duration) -> IssuingCa {
    let key = key();
    let public = PublicKey::of(&key).unwrap();
    let issued = parent
        .issue_authority(&trust_domain(), &public, ttl, NOW)
        .unwrap();
    let own = issued.chain[0].clone();
    IssuingCa::new(own, issued.chain, Arc::new(key)).unwrap()
}

fn leaf_of(ca: &IssuingCa, roots: &[&X509Authority]) -> Result<VerifiedLeaf, PeerError> {
    let id = trust_domain().id_with_path("/workload").unwrap();
    let template = SvidTemplate {
        id: &id,
        dns_names: &[],
        ttl: HOUR,
    };
    let issued = ca
        .issue(&template, &PublicKey::of(&key()).unwrap(), NOW)
        .unwrap();
    let mut bundle = Bundle::empty(trust_domain());
    bundle.x509_authorities = roots.iter().copied().cloned().collect();
    let (leaf, above) = issued.chain.split_first().unwrap();
    verify_svid(leaf, above, &bundle, NOW)
}

fn subject(ca: &IssuingCa) -> String {
    let (_, cert) = X509Certificate::from_der(ca.authority().der()).unwrap();
    cert.subject().to_string()
}

#[test]
fn what_servers_two_levels_below_sign_leads_to_the_root() {
    let root = root();
    let first = below(&root, 12 * HOUR);
    let second = below(&first, 6 * HOUR);
    for ca in [&first, &second] {
        leaf_of(ca, &[root.authority()]).unwrap();
        let stranger = self::root();
        leaf_of(ca, &[stranger.authority()]).unwrap_err();
    }
    // The root itself is never sent along.
    assert_eq!((first.chain.len(), second.chain.len()), (1, 2));
}

#[test]
fn an_authority_below_is_as_spire_makes_it() {
    let root = root();
    let first = below(&root, 12 * HOUR);
    let second = below(&first, 48 * HOUR);
    let serial = subject(&root)
        .split_once("serialNumber=")
        .unwrap()
        .1
        .to_owned();
    let expected = |n: usize| format!("C=US, O=SPIFFE, OU=DOWNSTREAM-{n}, serialNumber={serial}");
    assert_eq!(subject(&first), expected(1));
    assert_eq!(subject(&second), expected(1));
    assert_eq!(subject(&below(&second, HOUR)), expected(2));

    let (_, cert) = X509Certificate::from_der(second.authority().der()).unwrap();
    let constraints = cert.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, None);
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(cert.extended_key_usage().unwrap().is_none());
    let names = cert.subject_alternative_name().unwrap().unwrap();
    let names = &names.value.general_names;
    assert_eq!(names, &[GeneralName::URI("spiffe://ai-agents.org")]);
    let issuer = cert
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0),
            _ => None,
        });
    let issuer = crate::bundle::hex(issuer.unwrap());
    assert_eq!(issuer, first.authority().authority_id());
    // Asked for two days, cut at the end of the authority above.
    assert_eq!(
        second.authority().not_after(),
        first.authority().not_after()
    );
}

#[test]
fn an_authority_of_another_pki_signs_with_any_kind_of_key() {
    let ec = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072);
    let pairs = [
        ec(&rcgen::PKCS_ECDSA_P256_SHA256),
        ec(&rcgen::PKCS_ECDSA_P384_SHA384),
        ec(&rcgen::PKCS_ECDSA_P521_SHA512),
        rsa.unwrap(),
    ];
    for pair in pairs {
        let pkcs8 = pair.serialize_der();
        let parent =
            ParentCa::new(foreign_root(&pair), &PrivatePkcs8KeyDer::from(pkcs8).into()).unwrap();
        let key = key();
        let request = authority_request(&trust_domain(), &Subject::authority(), &key).unwrap();
        let signed = parent.sign(&trust_domain(), &request, HOUR, NOW).unwrap();
        let ca = IssuingCa::new(signed.chain[0].clone(), signed.chain, Arc::new(key)).unwrap();
        assert!(subject(&ca).starts_with("C=US, O=SPIFFE, serialNumber="));
        leaf_of(&ca, &[parent.authority()]).unwrap();
    }
}

#[test]
fn keys_of_the_older_encodings_are_read_too() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let sec1 = inner_key(&pair.serialize_der());
    ParentCa::new(foreign_root(&pair), &PrivateSec1KeyDer::from(sec1).into()).unwrap();
    let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let pkcs1 = inner_key(&pair.serialize_der());
    ParentCa::new(foreign_root(&pair), &PrivatePkcs1KeyDer::from(pkcs1).into()).unwrap();
}

#[test]
fn a_key_of_another_certificate_or_kind_is_refused() {
    let pair = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let (one, other) = (
        pair(&rcgen::PKCS_ECDSA_P256_SHA256),
        pair(&rcgen::PKCS_ECDSA_P256_SHA256),
    );
    let key = PrivatePkcs8KeyDer::from(other.serialize_der()).into();
    let error = ParentCa::new(foreign_root(&one), &key).unwrap_err();
    assert!(matches!(error, IssueError::KeyMismatch), "{error}");
    let ed25519 = pair(&rcgen::PKCS_ED25519);
    let key = PrivatePkcs8KeyDer::from(ed25519.serialize_der()).into();
    let error = ParentCa::new(foreign_root(&ed25519), &key).unwrap_err();
    assert!(matches!(error, IssueError::ParentKey), "{error}");
}

#[test]
fn a_request_that_does_not_prove_its_key_is_refused() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
    let parent = ParentCa::new(foreign_root(&pair), &key).unwrap();
    let mut request =
        authority_request(&trust_domain(), &Subject::authority(), &self::key()).unwrap();
    *request.last_mut().unwrap() ^= 1;
    let error = parent
        .sign(&trust_domain(), &request, HOUR, NOW)
        .unwrap_err();
    assert!(matches!(error, IssueError::Request(_)), "{error}");
}

fn foreign_root(pair: &rcgen::KeyPair) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Corporate Root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.self_signed(pair).unwrap().der().clone()
}

/// What stands in the OCTET STRING of a PKCS#8 key: the key in the encoding from before PKCS#8.
fn inner_key(pkcs8: &[u8]) -> Vec<u8> {
    use x509_parser::asn1_rs::{Any, FromDer as _, Integer, OctetString, Sequence};

    let (_, outer) = Sequence::from_der(pkcs8).unwrap();
    let (rest, _) = Integer::from_der(&outer.content).unwrap();
    let (rest, _) = Any::from_der(rest).unwrap();
    let (_, key) = OctetString::from_der(rest).unwrap();
    key.as_ref().to_vec()
}
