//! The templates, read back by an independent parser, and judged by the verifier.

use std::sync::Arc;
use std::time::Duration;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::key::{KeyType, PrivateKey};
use crate::verify::{InvalidSvid, PeerError, VerifiedLeaf, verify_peer};
use crate::{Bundle, BundleSet, X509Svid};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::new("ai-agents.org").unwrap()
}

fn authority(key_type: KeyType) -> IssuingCa {
    let key = PrivateKey::generate(key_type).unwrap();
    let subject = Subject::authority();
    let cert = self_signed_authority(&trust_domain(), &subject, &key, 24 * HOUR, NOW).unwrap();
    IssuingCa::new(cert, Vec::new(), Arc::new(key)).unwrap()
}

fn bundle_of(ca: &IssuingCa) -> BundleSet {
    let mut bundle = Bundle::empty(trust_domain());
    bundle.x509_authorities.push(ca.authority().clone());
    [bundle].into_iter().collect()
}

fn svid(ca: &IssuingCa, path: &str, ttl: Duration) -> X509Svid {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = trust_domain().id_with_path(path).unwrap();
    let template = SvidTemplate {
        id: &id,
        dns_names: &[],
        ttl,
    };
    let issued = ca
        .issue(&template, &PublicKey::of(&key).unwrap(), NOW)
        .unwrap();
    X509Svid::new(issued.chain, key).unwrap()
}

#[test]
fn an_authority_is_as_spire_makes_it() {
    let ca = authority(KeyType::EcP256);
    let (_, cert) = X509Certificate::from_der(ca.authority().der()).unwrap();
    let serial = cert.tbs_certificate.serial.to_string();
    assert_eq!(
        cert.subject().to_string(),
        format!("C=US, O=SPIFFE, serialNumber={serial}")
    );
    let constraints = cert.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, None);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    assert!(cert.extended_key_usage().unwrap().is_none());
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names, &[GeneralName::URI("spiffe://ai-agents.org")]);
    assert!(!cert.extensions().iter().any(|e| {
        matches!(
            e.parsed_extension(),
            ParsedExtension::AuthorityKeyIdentifier(_)
        )
    }));
    assert_eq!(ca.authority().authority_id().len(), 40);
    assert_eq!(cert.validity().not_before.timestamp(), 1_800_000_000 - 10);
    assert_eq!(
        cert.validity().not_after.timestamp(),
        1_800_000_000 + 24 * 3600
    );
}

#[test]
fn an_svid_is_as_spire_makes_it() {
    let ca = authority(KeyType::EcP384);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://ai-agents.org/coder").unwrap();
    let dns = [
        DnsName::new("a.example").unwrap(),
        DnsName::new("b.example").unwrap(),
    ];
    let template = SvidTemplate {
        id: &id,
        dns_names: &dns,
        ttl: HOUR,
    };
    let issued = ca
        .issue(&template, &PublicKey::of(&key).unwrap(), NOW)
        .unwrap();
    assert_eq!(issued.chain.len(), 1);
    let (_, cert) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(cert.subject().to_string(), "C=US, O=SPIRE, CN=a.example");
    assert_eq!(cert.tbs_certificate.serial.to_string(), issued.serial);
    assert_eq!(cert.public_key().raw, key.spki());
    let constraints = cert.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(usage.value.key_encipherment() && usage.value.key_agreement());
    let purposes = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(
        names,
        &[
            GeneralName::URI("spiffe://ai-agents.org/coder"),
            GeneralName::DNSName("a.example"),
            GeneralName::DNSName("b.example"),
        ]
    );
    let aki = cert
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref(),
            _ => None,
        });
    assert_eq!(
        crate::bundle::hex(aki.unwrap().0),
        ca.authority().authority_id()
    );
    assert!(verify_peer(&issued.chain, &bundle_of(&ca), NOW).is_ok());
}

#[test]
fn each_type_of_authority_signs_what_verifies() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let ca = authority(key_type);
        let svid = svid(&ca, "/w", HOUR);
        let leaf = verify_peer(svid.chain(), &bundle_of(&ca), NOW).unwrap();
        assert_eq!(leaf.id.as_str(), "spiffe://ai-agents.org/w");
        assert_eq!(leaf.kid, svid.kid());
    }
}

#[test]
fn no_svid_outlives_its_authority_and_none_is_signed_after_it() {
    let ca = authority(KeyType::EcP256);
    assert_eq!(
        svid(&ca, "/w", 48 * HOUR).not_after(),
        ca.authority().not_after()
    );
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://ai-agents.org/w").unwrap();
    let template = SvidTemplate {
        id: &id,
        dns_names: &[],
        ttl: HOUR,
    };
    let end = ca.authority().not_after();
    let late = ca.issue(&template, &PublicKey::of(&key).unwrap(), end);
    assert!(matches!(late, Err(IssueError::Expired(at)) if at == end));
}

#[test]
fn time_decides_with_a_reason() {
    let ca = authority(KeyType::EcP256);
    let svid = svid(&ca, "/w", HOUR);
    let at = |now| verify_peer(svid.chain(), &bundle_of(&ca), now);
    assert!(at(svid.not_before()).is_ok() && at(svid.not_after()).is_ok());
    let one = Duration::from_secs(1);
    assert!(matches!(
        at(svid.not_before().before(one)),
        Err(PeerError::NotYetValid { .. })
    ));
    assert!(matches!(
        at(svid.not_after().after(one)),
        Err(PeerError::Expired { .. })
    ));
}

#[test]
fn another_authority_and_another_trust_domain_vouch_for_nothing() {
    let (ca, stranger) = (authority(KeyType::EcP256), authority(KeyType::EcP256));
    let svid = svid(&ca, "/w", HOUR);
    let wrong = verify_peer(svid.chain(), &bundle_of(&stranger), NOW);
    assert!(matches!(wrong, Err(PeerError::UnknownAuthority { .. })));
    let mut bundle = Bundle::empty(TrustDomain::new("other.org").unwrap());
    bundle.x509_authorities.push(ca.authority().clone());
    let elsewhere: BundleSet = [bundle].into_iter().collect();
    assert!(matches!(
        verify_peer(svid.chain(), &elsewhere, NOW),
        Err(PeerError::NoBundle(_))
    ));
    assert_eq!(
        verify_peer(&[], &elsewhere, NOW),
        Err(PeerError::NoCertificate)
    );
}

#[test]
fn an_expired_authority_vouches_for_nothing() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let subject = Subject::authority();
    let short = self_signed_authority(&trust_domain(), &subject, &key, HOUR, NOW).unwrap();
    let long = self_signed_authority(&trust_domain(), &subject, &key, 9 * HOUR, NOW).unwrap();
    // Signed under the long-lived certificate, presented where only the short-lived one of the same key is known.
    let ca = IssuingCa::new(long, Vec::new(), Arc::new(key)).unwrap();
    let svid = svid(&ca, "/w", 8 * HOUR);
    let mut bundle = Bundle::empty(trust_domain());
    bundle
        .x509_authorities
        .push(X509Authority::new(short).unwrap());
    let bundles: BundleSet = [bundle].into_iter().collect();
    let later = NOW.after(2 * HOUR);
    assert!(verify_peer(svid.chain(), &bundle_of(&ca), later).is_ok());
    assert!(matches!(
        verify_peer(svid.chain(), &bundles, later),
        Err(PeerError::UnknownAuthority { .. })
    ));
}

/// Makes a chain root → intermediate → leaf with rcgen itself, so that each rule can be broken.
struct Chain {
    root: CertificateParams,
    intermediate: CertificateParams,
    leaf: CertificateParams,
}

impl Chain {
    fn sound() -> Self {
        let ca = |path_len: BasicConstraints| {
            let mut params = CertificateParams::default();
            params.distinguished_name = Subject::authority().to_rcgen();
            params.is_ca = IsCa::Ca(path_len);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI("spiffe://ai-agents.org/w".try_into().unwrap())];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut intermediate = ca(BasicConstraints::Unconstrained);
        intermediate
            .distinguished_name
            .push(DnType::CommonName, "intermediate");
        Self {
            root: ca(BasicConstraints::Unconstrained),
            intermediate,
            leaf,
        }
    }

    fn verify(&self) -> Result<VerifiedLeaf, PeerError> {
        let pair = || rcgen::KeyPair::generate().unwrap();
        let (root_key, intermediate_key, leaf_key) = (pair(), pair(), pair());
        let root = self.root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::from_params(&self.root, &root_key);
        let intermediate = self
            .intermediate
            .signed_by(&intermediate_key, &root_issuer)
            .unwrap();
        let issuer = Issuer::from_params(&self.intermediate, &intermediate_key);
        let leaf = self.leaf.signed_by(&leaf_key, &issuer).unwrap();
        let mut bundle = Bundle::empty(trust_domain());
        bundle
            .x509_authorities
            .push(X509Authority::new(root.der().clone()).unwrap());
        let bundles: BundleSet = [bundle].into_iter().collect();
        verify_peer(
            &[leaf.der().clone(), intermediate.der().clone()],
            &bundles,
            NOW,
        )
    }
}

#[test]
fn a_chain_is_as_strong_as_each_of_its_rules() {
    assert!(Chain::sound().verify().is_ok());

    let mut no_cert_sign = Chain::sound();
    no_cert_sign.intermediate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert!(matches!(
        no_cert_sign.verify(),
        Err(PeerError::UnknownAuthority { .. })
    ));

    let mut root_path_len = Chain::sound();
    root_path_len.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    assert!(matches!(
        root_path_len.verify(),
        Err(PeerError::UnknownAuthority { .. })
    ));

    let mut root_cannot_sign = Chain::sound();
    root_cannot_sign.root.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert!(matches!(
        root_cannot_sign.verify(),
        Err(PeerError::UnknownAuthority { .. })
    ));

    let mut not_a_ca = Chain::sound();
    not_a_ca.intermediate.is_ca = IsCa::ExplicitNoCa;
    assert!(matches!(
        not_a_ca.verify(),
        Err(PeerError::UnknownAuthority { .. })
    ));
}

#[test]
fn a_leaf_is_as_the_standard_wants_it() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let broken = |break_it: &dyn Fn(&mut CertificateParams)| {
        let mut chain = Chain::sound();
        break_it(&mut chain.leaf);
        match chain.verify() {
            Err(PeerError::Svid(e)) => e,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        broken(&|l| l.subject_alt_names.clear()),
        InvalidSvid::UriSans(0)
    );
    assert_eq!(
        broken(&|l| l.subject_alt_names.push(uri("spiffe://ai-agents.org/x"))),
        InvalidSvid::UriSans(2)
    );
    assert!(matches!(
        broken(&|l| l.subject_alt_names = vec![uri("spiffe://AI-agents.org/w")]),
        InvalidSvid::Id(_)
    ));
    assert!(matches!(
        broken(&|l| l.subject_alt_names = vec![uri("https://ai-agents.org/w")]),
        InvalidSvid::Id(_)
    ));
    assert!(matches!(
        broken(&|l| l.subject_alt_names = vec![uri("spiffe://ai-agents.org")]),
        InvalidSvid::NoPath(_)
    ));
    assert_eq!(
        broken(&|l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        InvalidSvid::IsCa
    );
    assert_eq!(broken(&|l| l.key_usages.clear()), InvalidSvid::KeyUsage);
    assert_eq!(
        broken(&|l| l.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        InvalidSvid::KeyUsage
    );
}

#[test]
fn an_svid_needs_its_own_key_and_whole_certificates() {
    let ca = authority(KeyType::EcP256);
    let good = svid(&ca, "/w", HOUR);
    let again = X509Svid::from_der(&good.chain_der(), &good.key().to_pkcs8()).unwrap();
    assert_eq!(again.leaf(), good.leaf());
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mismatch = X509Svid::new(good.chain().to_vec(), other);
    assert_eq!(mismatch.unwrap_err(), crate::svid::SvidError::KeyMismatch);
    let mut joined = good.chain_der();
    joined.push(0x30);
    assert!(crate::svid::split_der(&joined).is_err());
}
