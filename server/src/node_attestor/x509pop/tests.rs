//! The attestor against nodes with real certificates and keys, honest and not.

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, RSA_PSS_SHA256, RsaKeyPair, RsaPssSaltLength,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::bundle::BundleSet;
use countersign_identity::{Bundle, UnixTime};
use countersign_transport::clock::TestClock;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

use super::*;
use crate::node_attestor::path_template::PathTemplate;

const NOW: u64 = 1_800_000_000;

/// How a node answers.
type Answer = Box<dyn FnMut(Value) -> Vec<u8> + Send>;

struct Node {
    answer: Answer,
    address: Option<IpAddr>,
    asked: usize,
}

impl Conversation for Node {
    fn challenge(&mut self, challenge: Bytes) -> BoxFuture<'_, Result<Bytes, AttestError>> {
        self.asked += 1;
        let answer = (self.answer)(serde_json::from_slice(&challenge).unwrap());
        async move { Ok(answer.into()) }.boxed()
    }

    fn client(&self) -> Option<IpAddr> {
        self.address
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn node(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(vec![0x0a, 0xbc].into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// A trust domain with one authority outside of it, and an attestor.
struct House {
    root_key: KeyPair,
    root: rcgen::Certificate,
    settings: X509PopSettings,
    folder: tempfile::TempDir,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn template(text: &str) -> PathTemplate {
    PathTemplate::parse(text, field_kind).unwrap()
}

impl House {
    fn new() -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root = ca("root").self_signed(&root_key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        std::fs::write(&path, root.pem()).unwrap();
        let settings = X509PopSettings {
            mode: Mode::ExternalPki(Roots::load(&[path]).unwrap()),
            path_template: template("/{{ .PluginName }}/{{ .Fingerprint }}"),
            max_intermediates: 4,
            max_rsa_key_size: 8_192,
            verify_client_ip: false,
        };
        Self {
            root_key,
            root,
            settings,
            folder,
        }
    }

    fn issue(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::new(ca("root"), &self.root_key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }

    async fn attest(&self, payload: Value, node: &mut Node) -> Result<Attested, AttestError> {
        let td = TrustDomain::new("td").unwrap();
        let mut own = Bundle::empty(td.clone());
        own.x509_authorities = vec![X509Authority::new(self.root.der().clone()).unwrap()];
        let bundles = Arc::new(BundleSet::from_iter([own]));
        let clock = TestClock::fixed(UnixTime::from_secs(NOW)).shared();
        let attestor = X509Pop::new(self.settings.clone(), td, bundles, clock);
        attestor.attest(payload.to_string().into(), node).await
    }
}

fn shown(certificates: &[&[u8]]) -> Value {
    let certificates: Vec<_> = certificates
        .iter()
        .map(|der| STANDARD.encode(der))
        .collect();
    json!({ "certificates": certificates })
}

/// The bytes that are signed, by the challenge's nonce and one of the node's own.
fn message(challenge: &Value, kind: &str) -> Vec<u8> {
    let nonce = challenge[kind]["nonce"].as_str().unwrap();
    let mut message = STANDARD.decode(nonce).unwrap();
    assert_eq!(message.len(), 32);
    message.extend([7; 32]);
    message
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Node {
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).unwrap();
    let answer = move |challenge: Value| {
        assert!(challenge["rsa_signature"].is_null());
        let signed = message(&challenge, "ecdsa_signature");
        let signature = key.sign(&SystemRandom::new(), &signed).unwrap();
        let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
        // As Go's big numbers: no zeros before them.
        let trimmed = |n: &[u8]| {
            let zeros = n.iter().take_while(|b| **b == 0).count();
            STANDARD.encode(&n[zeros..])
        };
        json!({ "rsa_signature": null, "ecdsa_signature": {
            "nonce": STANDARD.encode([7; 32]), "r": trimmed(r), "s": trimmed(s) } })
        .to_string()
        .into_bytes()
    };
    honest(Box::new(answer))
}

fn rsa(pkcs8: &[u8], salt: RsaPssSaltLength) -> Node {
    let key = RsaKeyPair::from_pkcs8(pkcs8).unwrap();
    let answer = move |challenge: Value| {
        assert!(challenge["ecdsa_signature"].is_null());
        let signed = message(&challenge, "rsa_signature");
        let mut signature = vec![0; key.public_modulus_len()];
        let padding: &'static _ = Box::leak(Box::new(RSA_PSS_SHA256.with_pss_salt_length(salt)));
        key.sign(padding, &SystemRandom::new(), &signed, &mut signature)
            .unwrap();
        json!({ "rsa_signature": {
            "nonce": STANDARD.encode([7; 32]), "signature": STANDARD.encode(signature) } })
        .to_string()
        .into_bytes()
    };
    honest(Box::new(answer))
}

fn honest(answer: Answer) -> Node {
    Node {
        answer,
        address: None,
        asked: 0,
    }
}

fn says(text: &'static str) -> Node {
    honest(Box::new(move |_| text.as_bytes().to_vec()))
}

fn p256() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let pkcs8 = key.serialize_der();
    (key, pkcs8)
}

fn values(attested: &Attested) -> Vec<String> {
    attested.selectors.iter().map(ToString::to_string).collect()
}

fn sha1(der: &[u8]) -> String {
    fingerprint(der)
}

#[tokio::test]
async fn a_node_with_an_ecdsa_key_proves_itself() {
    let house = House::new();
    let (key, pkcs8) = p256();
    let leaf = house.issue(&node("n1"), &key);
    let mut honest = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
    let attested = house.attest(shown(&[&leaf]), &mut honest).await.unwrap();
    let id = format!("spiffe://td/spire/agent/x509pop/{}", sha1(&leaf));
    assert_eq!((attested.id.as_str(), attested.can_reattest), (&*id, true));
    let root = format!("x509pop:ca:fingerprint:{}", sha1(house.root.der()));
    assert_eq!(
        values(&attested),
        [&root, "x509pop:serialnumber:0abc", "x509pop:subject:cn:n1"]
    );
}

#[tokio::test]
async fn the_curve_may_be_larger_than_the_digest() {
    let house = House::new();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA256).unwrap();
    let leaf = house.issue(&node("n1"), &key);
    let mut honest = ecdsa(&ECDSA_P521_SHA256_FIXED_SIGNING, &key.serialize_der());
    house.attest(shown(&[&leaf]), &mut honest).await.unwrap();
}

#[tokio::test]
async fn an_rsa_signature_may_have_a_salt_of_any_length() {
    let house = House::new();
    let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key);
    let pkcs8 = pkcs8.unwrap().as_ref().to_vec();
    let pair = KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let leaf = house.issue(&node("n1"), &pair);
    for salt in [
        RsaPssSaltLength::Max,
        RsaPssSaltLength::Custom(222),
        RsaPssSaltLength::Digest,
        RsaPssSaltLength::Custom(0),
        RsaPssSaltLength::Custom(111),
    ] {
        let attested = house.attest(shown(&[&leaf]), &mut rsa(&pkcs8, salt)).await;
        assert!(attested.is_ok(), "{salt:?}: {attested:?}");
    }
    let mut strict = House::new();
    strict.settings.max_rsa_key_size = 2_047;
    let refused = strict.attest(shown(&[&leaf]), &mut says("")).await;
    let want = "nodeattestor(x509pop): leaf certificate key size too large";
    assert_eq!(refused, Err(AttestError::Invalid(want.into())));
}

#[tokio::test]
async fn whoever_only_has_the_certificate_proves_nothing() {
    let house = House::new();
    let (key, _) = p256();
    let leaf = house.issue(&node("n1"), &key);
    let (_, stolen) = p256();
    let mut other = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &stolen);
    let failed = "nodeattestor(x509pop): challenge response verification failed:";
    let denied = async |node: &mut Node| {
        let refused = house.attest(shown(&[&leaf]), node).await.unwrap_err();
        assert!(matches!(refused, AttestError::Denied(_)), "{refused:?}");
        refused.to_string().strip_prefix(failed).unwrap().to_owned()
    };
    assert_eq!(denied(&mut other).await, " ECDSA signature verify failed");
    for (answer, why) in [
        ("{}", " expecting ECDSA response"),
        (r#"{"ecdsa_signature":{}}"#, " invalid response nonce"),
        (
            r#"{"rsa_signature":{"nonce":null,"signature":null}}"#,
            " expecting ECDSA response",
        ),
        (
            r#"{"ecdsa_signature":{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","r":"","s":"AA=="}}"#,
            " ECDSA signature verify failed",
        ),
    ] {
        assert_eq!(denied(&mut says(answer)).await, why, "{answer}");
    }
    let garbled = house.attest(shown(&[&leaf]), &mut says("nonsense")).await;
    let garbled = garbled.unwrap_err();
    assert!(matches!(garbled, AttestError::Invalid(_)), "{garbled:?}");
}

#[tokio::test]
async fn an_answer_is_good_for_its_own_challenge_only() {
    let house = House::new();
    let (key, pkcs8) = p256();
    let leaf = house.issue(&node("n1"), &key);
    let mut honest = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
    let mut recorded = None;
    let mut recorder = says("");
    let (sender, receiver) = std::sync::mpsc::channel();
    recorder.answer = Box::new(move |challenge| {
        let answer = (honest.answer)(challenge);
        sender.send(answer.clone()).unwrap();
        answer
    });
    house.attest(shown(&[&leaf]), &mut recorder).await.unwrap();
    recorded.replace(receiver.recv().unwrap());
    let mut replay = says("");
    replay.answer = Box::new(move |_| recorded.clone().unwrap());
    let refused = house.attest(shown(&[&leaf]), &mut replay).await;
    assert!(matches!(refused, Err(AttestError::Denied(_))));
}

#[tokio::test]
async fn the_certificate_is_verified_before_the_challenge() {
    let house = House::new();
    let (key, _) = p256();
    let good = house.issue(&node("n1"), &key);
    let stranger = node("n1").self_signed(&key).unwrap().der().to_vec();
    let mut over = node("n1");
    over.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let over = house.issue(&over, &key);
    let mut unfit = node("n1");
    unfit.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let unfit = house.issue(&unfit, &key);
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = house.issue(&node("n1"), &ed25519);
    let many = vec![good.as_slice(); 6];
    let invalid = AttestError::Invalid as fn(String) -> AttestError;
    let denied = AttestError::Denied as fn(String) -> AttestError;
    let internal = AttestError::Internal as fn(String) -> AttestError;
    for (payload, kind, why) in [
        (json!([]), invalid, "failed to unmarshal data: "),
        (
            json!({ "certificates": ["!"] }),
            invalid,
            "failed to unmarshal data: ",
        ),
        (json!({}), invalid, "no certificate to attest"),
        (
            json!({ "certificates": null }),
            invalid,
            "no certificate to attest",
        ),
        (shown(&many), invalid, "too many intermediate certificates"),
        (
            shown(&[b"x"]),
            invalid,
            "unable to parse leaf certificate: ",
        ),
        (
            shown(&[&good, b"x"]),
            invalid,
            "unable to parse intermediate certificate 0: ",
        ),
        (
            shown(&[&[0; 20_000]]),
            invalid,
            "unable to parse leaf certificate: it is larger than",
        ),
        (
            shown(&[&stranger]),
            denied,
            "certificate verification failed: ",
        ),
        (shown(&[&over]), denied, "certificate verification failed: "),
        (
            shown(&[&unfit]),
            internal,
            "unable to generate challenge: certificate not intended for digital signature use",
        ),
        (
            shown(&[&ed25519]),
            internal,
            "unable to generate challenge: unsupported public key type",
        ),
    ] {
        let mut node = says("");
        let refused = house.attest(payload.clone(), &mut node).await.unwrap_err();
        let text = refused.to_string();
        assert_eq!(refused, kind(text.clone()), "{payload}");
        let start = format!("nodeattestor(x509pop): {why}");
        assert!(text.starts_with(&start), "{text} is not {start}");
        assert_eq!(node.asked, 0, "{why}");
    }
}

#[tokio::test]
async fn a_named_certificate_stands_for_itself() {
    let mut house = House::new();
    let (key, pkcs8) = p256();
    let mut params = node("n1");
    params.is_ca = IsCa::ExplicitNoCa;
    let pinned = params.self_signed(&key).unwrap();
    let path = house.folder.path().join("pinned.pem");
    std::fs::write(&path, pinned.pem()).unwrap();
    house.settings.mode = Mode::ExternalPki(Roots::load(&[path]).unwrap());
    let mut honest = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
    let attested = house.attest(shown(&[pinned.der()]), &mut honest).await;
    let want = ["x509pop:serialnumber:0abc", "x509pop:subject:cn:n1"];
    assert_eq!(values(&attested.unwrap()), want);
    let signed = house.issue(&node("n2"), &key);
    let refused = house.attest(shown(&[&signed]), &mut honest).await;
    assert!(matches!(refused, Err(AttestError::Denied(_))));
}

#[tokio::test]
async fn the_client_address_is_verified_if_configured() {
    let mut house = House::new();
    house.settings.verify_client_ip = true;
    let (key, pkcs8) = p256();
    let mut params = node("n1");
    params.subject_alt_names = vec![SanType::IpAddress("10.0.0.1".parse().unwrap())];
    let leaf = house.issue(&params, &key);
    let from = async |address: Option<&str>| {
        let mut node = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
        node.address = address.map(|address| address.parse().unwrap());
        let attested = house.attest(shown(&[&leaf]), &mut node).await;
        attested.map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(from(Some("10.0.0.1")).await, Ok(()));
    let refused = "nodeattestor(x509pop): client IP 10.0.0.2 does not match any certificate IP SAN";
    assert_eq!(from(Some("10.0.0.2")).await, Err(refused.into()));
    let unknown = "nodeattestor(x509pop): client IP not available for verification";
    assert_eq!(from(None).await, Err(unknown.into()));
}

#[tokio::test]
async fn only_an_svid_under_the_prefix_is_exchanged() {
    let mut house = House::new();
    house.settings.mode = Mode::Spiffe {
        prefix: "/spire-exchange/".into(),
    };
    house.settings.path_template = template("/{{ .PluginName }}/{{ .SVIDPathTrimmed }}");
    let (key, pkcs8) = p256();
    let exchanged = async |ids: &[&str]| {
        let mut params = node("");
        params.subject_alt_names = ids.iter().map(|id| uri(id)).collect();
        let leaf = house.issue(&params, &key);
        let mut node = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
        let attested = house.attest(shown(&[&leaf]), &mut node).await;
        attested
            .map(|a| a.id.to_string())
            .map_err(|e| e.to_string())
    };
    let id = "spiffe://td/spire/agent/x509pop/host/a";
    assert_eq!(
        exchanged(&["spiffe://td/spire-exchange/host/a"]).await,
        Ok(id.into())
    );
    let prefix = "nodeattestor(x509pop): x509 cert doesnt match SVID prefix";
    let none = "nodeattestor(x509pop): valid SVID x509 cert not found";
    for (ids, why) in [
        (&["spiffe://td/other/a"][..], prefix),
        (&["spiffe://td/spire/agent/join_token/x"], prefix),
        (&["spiffe://other/spire-exchange/a"], none),
        (&["https://td/spire-exchange/a"], none),
        (&[], none),
    ] {
        assert_eq!(exchanged(ids).await, Err(why.into()), "{ids:?}");
    }
}

#[tokio::test]
async fn the_template_makes_the_path_from_the_certificate() {
    let mut house = House::new();
    let (key, pkcs8) = p256();
    let made = async |house: &House, name: &str, uris: &[&str]| {
        let mut params = node(name);
        params.subject_alt_names = uris.iter().map(|text| uri(text)).collect();
        let leaf = house.issue(&params, &key);
        let mut node = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
        house.attest(shown(&[&leaf]), &mut node).await
    };
    house.settings.path_template = template("/cn/{{ .Subject.CommonName | lower }}");
    let attested = made(&house, "Node.1", &[]).await.unwrap();
    assert_eq!(attested.id.as_str(), "spiffe://td/spire/agent/cn/node.1");
    for bad in ["", "a b", "..", "a/", "ü"] {
        let refused = made(&house, bad, &[]).await.unwrap_err();
        assert!(matches!(refused, AttestError::Internal(_)), "{bad}");
    }
    house.settings.path_template =
        template("/{{ .URISanSelectors.cluster }}/{{ .SerialNumberHex }}");
    let uris = [
        "x509pop://td/cluster/eu%2D1",
        "x509pop://td/alone",
        "x509pop://other/cluster/us",
    ];
    let attested = made(&house, "n", &uris).await.unwrap();
    assert_eq!(attested.id.as_str(), "spiffe://td/spire/agent/eu-1/0abc");
    let named = "x509pop:san:cluster:eu-1".to_owned();
    let values = values(&attested);
    assert!(values.contains(&named), "{values:?}");
    assert_eq!(values.iter().filter(|v| v.contains(":san:")).count(), 1);
    made(&house, "n", &[]).await.unwrap_err();
}

#[test]
fn errors_name_the_file_of_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    let told = || {
        Roots::load(std::slice::from_ref(&path))
            .unwrap_err()
            .to_string()
    };
    let missing: PathBuf = path.clone();
    assert!(told().contains(&missing.display().to_string()));
    std::fs::write(&path, "no PEM").unwrap();
    assert!(told().ends_with("there is no certificate in it"));
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, bad).unwrap();
    assert!(told().ends_with("its certificate 1 can't be used"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_payload_and_no_answer_makes_it_panic(payload in json_like(), answer in json_like()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new();
            let (key, _) = p256();
            let leaf = house.issue(&node("n1"), &key);
            house.attest(payload, &mut says("")).await.unwrap_err();
            let text = answer.to_string().into_bytes();
            let mut node = honest(Box::new(move |_| text.clone()));
            house.attest(shown(&[&leaf]), &mut node).await.unwrap_err();
        });
    }
}

/// Values of the protocol's shape with whatever in them.
fn json_like() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<Vec<u8>>().prop_map(|bytes| STANDARD.encode(bytes).into()),
        any::<[u8; 32]>().prop_map(|bytes| STANDARD.encode(bytes).into()),
        ".{0,8}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![
            Just("certificates"),
            Just("rsa_signature"),
            Just("ecdsa_signature"),
            Just("nonce"),
            Just("signature"),
            Just("r"),
            Just("s"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}
