//! Each rule, broken once.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::issue::{Subject, self_signed_authority};
use crate::{KeyType, PrivateKey};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

/// A root with its key, and the key of the authority that is asked for.
struct House {
    root: KeyPair,
    root_params: CertificateParams,
    roots: Vec<X509Authority>,
    key: PrivateKey,
}

impl House {
    fn new() -> Self {
        let root = KeyPair::generate().unwrap();
        let mut root_params = authority_params();
        root_params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "root");
        let der = root_params.self_signed(&root).unwrap().der().clone();
        Self {
            root,
            root_params,
            roots: vec![X509Authority::new(der).unwrap()],
            key: PrivateKey::generate(KeyType::EcP256).unwrap(),
        }
    }

    fn sign(&self, params: &CertificateParams) -> CertificateDer<'static> {
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.key.to_pkcs8().to_vec()),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
        .unwrap();
        let issuer = Issuer::from_params(&self.root_params, &self.root);
        params.signed_by(&pair, &issuer).unwrap().der().clone()
    }

    fn judge(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<IssuingCa, InvalidIssuedCa> {
        let mut params = authority_params();
        change(&mut params);
        self.judge_chain(&[self.sign(&params)])
    }

    fn judge_chain(&self, chain: &[CertificateDer<'static>]) -> Result<IssuingCa, InvalidIssuedCa> {
        authority(&td(), chain, &self.roots, Arc::new(self.key.clone()), NOW)
    }
}

fn authority_params() -> CertificateParams {
    let date = |at: UnixTime| time::OffsetDateTime::from_unix_timestamp(at.as_i64()).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = date(NOW.before(Duration::from_secs(10)));
    params.not_after = date(NOW.after(HOUR));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn what_keeps_the_rules_signs_with_or_without_a_name() {
    let house = House::new();
    house.judge(|_| {}).unwrap();
    house
        .judge(|p| p.subject_alt_names.push(uri("spiffe://example.org")))
        .unwrap();
    house
        .judge(|p| p.key_usages.push(KeyUsagePurpose::DigitalSignature))
        .unwrap();
}

#[test]
fn an_answer_without_certificates_or_with_too_many_is_refused() {
    let house = House::new();
    let error = house.judge_chain(&[]).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::Empty), "{error}");
    let one = house.sign(&authority_params());
    let error = house.judge_chain(&vec![one; MAX_CHAIN_LEN]).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::TooLong), "{error}");
    let error = house.judge_chain(&[vec![0x30, 0x00].into()]).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::Malformed(_)), "{error}");
}

#[test]
fn a_certificate_that_may_not_sign_or_may_do_more_is_refused() {
    let house = House::new();
    for usages in [vec![], vec![KeyUsagePurpose::CrlSign]] {
        let error = house.judge(|p| p.key_usages = usages).unwrap_err();
        assert!(matches!(error, InvalidIssuedCa::CannotSign), "{error}");
    }
    for usage in [
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
        KeyUsagePurpose::DataEncipherment,
        KeyUsagePurpose::ContentCommitment,
    ] {
        let error = house.judge(|p| p.key_usages.push(usage)).unwrap_err();
        assert!(matches!(error, InvalidIssuedCa::Usage), "{error}");
    }
    let error = house.judge(|p| p.is_ca = IsCa::ExplicitNoCa).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::Above), "{error}");
}

#[test]
fn a_chain_with_something_else_than_authorities_is_refused() {
    let house = House::new();
    let own = house.sign(&authority_params());
    let mut leaf = authority_params();
    leaf.is_ca = IsCa::ExplicitNoCa;
    for other in [house.sign(&leaf), vec![0; 20 * 1024].into()] {
        let error = house.judge_chain(&[own.clone(), other]).unwrap_err();
        assert!(matches!(error, InvalidIssuedCa::Above), "{error}");
    }
}

#[test]
fn a_certificate_that_names_something_else_is_refused() {
    let house = House::new();
    for names in [
        vec![uri("spiffe://example.org/server")],
        vec![uri("spiffe://other.org")],
        vec![uri("spiffe://example.org"), uri("spiffe://example.org")],
    ] {
        let error = house.judge(|p| p.subject_alt_names = names).unwrap_err();
        assert!(matches!(error, InvalidIssuedCa::Id { .. }), "{error}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let house = House::new();
    let date = |at: UnixTime| time::OffsetDateTime::from_unix_timestamp(at.as_i64()).unwrap();
    let early = house.judge(|p| p.not_before = date(NOW.after(Duration::from_secs(1))));
    let error = early.unwrap_err();
    assert!(
        matches!(error, InvalidIssuedCa::NotYetValid { .. }),
        "{error}"
    );
    let late = house.judge(|p| p.not_after = date(NOW));
    let error = late.unwrap_err();
    assert!(
        matches!(error, InvalidIssuedCa::Issue(IssueError::Expired(_))),
        "{error}"
    );
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let mut house = House::new();
    let chain = [house.sign(&authority_params())];
    house.key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let error = house.judge_chain(&chain).unwrap_err();
    let mismatch = matches!(error, InvalidIssuedCa::Issue(IssueError::KeyMismatch));
    assert!(mismatch, "{error}");
}

#[test]
fn what_leads_to_no_root_or_to_a_tainted_one_is_refused() {
    let mut house = House::new();
    let roots = house.roots.clone();
    house.roots = vec![roots[0].with_tainted(true)];
    let error = house.judge(|_| {}).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::Unanchored(_)), "{error}");
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let other = self_signed_authority(&td(), &Subject::authority(), &other, HOUR, NOW).unwrap();
    house.roots = vec![X509Authority::new(other).unwrap()];
    let error = house.judge(|_| {}).unwrap_err();
    assert!(matches!(error, InvalidIssuedCa::Unanchored(_)), "{error}");
}
