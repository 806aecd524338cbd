//! What is written is read back; what is not exactly right is refused whole.

use std::sync::LazyLock;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::*;

fn td() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

/// Keys of every kind that documents know. RSA keys take long to make, so they are made once.
static PAIRS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let mut pairs: Vec<_> = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ]
    .map(|algorithm| KeyPair::generate_for(algorithm).unwrap())
    .into();
    for size in [rcgen::RsaKeySize::_2048, rcgen::RsaKeySize::_3072] {
        pairs.push(KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap());
    }
    pairs
});

const ED25519: usize = 3;

fn root(pair: &KeyPair) -> X509Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    X509Authority::new(params.self_signed(pair).unwrap().der().clone()).unwrap()
}

static ROOTS: LazyLock<Vec<X509Authority>> = LazyLock::new(|| PAIRS.iter().map(root).collect());

fn jwt(pair: &KeyPair, key_id: &str) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.into(),
        public_key: pair.subject_public_key_info(),
        expires_at: None,
        tainted: false,
    }
}

/// A bundle with one root and one JWT key, both P-256.
fn bundle() -> Bundle {
    Bundle {
        x509_authorities: vec![ROOTS[0].clone()],
        jwt_authorities: vec![jwt(&PAIRS[0], "k1")],
        sequence_number: 7,
        ..Bundle::empty(td())
    }
}

fn document() -> Value {
    serde_json::from_str(&write(&bundle()).unwrap()).unwrap()
}

fn refused(corrupt: impl FnOnce(&mut Value)) -> InvalidDocument {
    let mut document = document();
    corrupt(&mut document);
    read(&td(), document.to_string().as_bytes()).unwrap_err()
}

fn refused_key(corrupt: impl FnOnce(&mut Value)) -> (usize, InvalidKey) {
    match refused(corrupt) {
        InvalidDocument::Key { index, why } => (index, why),
        other => panic!("{other}"),
    }
}

fn bundles() -> impl Strategy<Value = Bundle> {
    let jwt_pair = prop::sample::select(vec![0, 1, 2, 4, 5]);
    let x509 = prop::sample::subsequence((0..PAIRS.len()).collect::<Vec<_>>(), 0..=PAIRS.len());
    let jwt_keys = prop::collection::btree_map("[ -~é]{1,20}", jwt_pair, 0..5);
    let hint = prop_oneof![Just(None), (1..1_000_000_u64).prop_map(Some)];
    (x509, jwt_keys, any::<u64>(), hint).prop_map(|(x509, keys, sequence_number, hint)| Bundle {
        x509_authorities: x509.into_iter().map(|i| ROOTS[i].clone()).collect(),
        jwt_authorities: keys.iter().map(|(id, i)| jwt(&PAIRS[*i], id)).collect(),
        refresh_hint: hint.map(Duration::from_secs),
        sequence_number,
        ..Bundle::empty(td())
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(bundle in bundles()) {
        let text = write(&bundle).unwrap();
        prop_assert_eq!(&read(&td(), text.as_bytes()).unwrap(), &bundle);
        prop_assert_eq!(write(&bundle).unwrap(), text);
    }

    #[test]
    fn one_changed_byte_is_refused_or_read_as_it_stands(at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = write(&bundle()).unwrap().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(read_once) = read(&td(), &text) {
            let again = read(&td(), write(&read_once).unwrap().as_bytes()).unwrap();
            prop_assert!(again == read_once);
        }
    }
}

#[test]
fn a_document_has_the_standards_members_in_spires_order() {
    let text = write(&bundle()).unwrap();
    let x509 = &document()["keys"][0];
    let point = &PAIRS[0].public_key_raw()[1..];
    let (x, y) = point.split_at(32);
    let (x, y) = (URL.encode(x), URL.encode(y));
    let root = STANDARD.encode(ROOTS[0].der());
    assert_eq!(x509["x5c"], json!([root]));
    let want = format!(
        r#"{{
    "keys": [
        {{
            "use": "x509-svid",
            "kty": "EC",
            "crv": "P-256",
            "x": "{x}",
            "y": "{y}",
            "x5c": [
                "{root}"
            ]
        }},
        {{
            "use": "jwt-svid",
            "kty": "EC",
            "kid": "k1",
            "crv": "P-256",
            "x": "{x}",
            "y": "{y}"
        }}
    ],
    "spiffe_sequence": 7
}}"#
    );
    assert_eq!(text, want);
}

const URL: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

#[test]
fn a_bundle_without_anything_is_an_empty_list() {
    let text = write(&Bundle::empty(td())).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({"keys": []})
    );
    assert_eq!(read(&td(), text.as_bytes()), Ok(Bundle::empty(td())));
}

#[test]
fn jwks_are_the_jwt_keys_and_nothing_of_spiffe_s() {
    let text = jwks(&bundle()).unwrap();
    let set: Value = serde_json::from_str(&text).unwrap();
    let mut want = document()["keys"][1].clone();
    want.as_object_mut().unwrap().remove("use");
    assert_eq!(set, json!({ "keys": [want] }));
}

#[test]
fn keys_of_every_kind_survive_the_document() {
    for pair in PAIRS.iter() {
        let spki = pair.subject_public_key_info();
        let key = PublicNumbers::from_spki(&spki).unwrap();
        assert_eq!(key.to_spki(), spki);
    }
}

#[test]
fn one_key_without_a_known_use_refuses_the_whole() {
    let (index, why) = refused_key(|d| d["keys"][1]["use"] = "sig".into());
    assert_eq!((index, why), (1, InvalidKey::UnknownUse("sig".into())));
    let without = refused_key(|d| {
        d["keys"][0].as_object_mut().unwrap().remove("use");
    });
    assert_eq!(without, (0, InvalidKey::UseMissing));
}

#[test]
fn each_bad_part_of_a_key_refuses_the_whole() {
    let why = |corrupt: fn(&mut Value)| refused_key(|d| corrupt(&mut d["keys"])).1;
    assert_eq!(
        why(|k| k[0]["x5c"] = json!([])),
        InvalidKey::CertificateCount(0)
    );
    assert_eq!(
        why(|k| k[0]["x5c"] = json!([k[0]["x5c"][0], k[0]["x5c"][0]])),
        InvalidKey::CertificateCount(2)
    );
    assert_eq!(
        why(|k| k[0]["x5c"] = json!(["*"])),
        InvalidKey::Base64("x5c")
    );
    assert!(matches!(
        why(|k| k[0]["x5c"] = json!(["AAAA"])),
        InvalidKey::Certificate(InvalidAuthority::Malformed(_))
    ));
    assert_eq!(
        why(|k| k[0]["x5c"] = json!([STANDARD.encode(ROOTS[1].der())])),
        InvalidKey::CertificateMismatch
    );
    assert_eq!(why(|k| k[1]["kid"] = "".into()), InvalidKey::KeyIdMissing);
    assert_eq!(
        why(|k| k[1]["kid"] = "k".repeat(MAX_KEY_ID_LEN + 1).into()),
        InvalidKey::KeyIdTooLong
    );
    assert_eq!(why(|k| k[1]["kty"] = "oct".into()), InvalidKey::Unsupported);
    assert_eq!(
        why(|k| k[1]["kty"] = Value::Null),
        InvalidKey::MemberMissing("kty")
    );
    assert_eq!(
        why(|k| k[1]["crv"] = "secp256k1".into()),
        InvalidKey::Unsupported
    );
    assert_eq!(
        why(|k| k[1]["x"] = Value::Null),
        InvalidKey::MemberMissing("x")
    );
    assert_eq!(why(|k| k[1]["x"] = "?".into()), InvalidKey::Base64("x"));
    assert_eq!(why(|k| k[1]["x"] = "AAAA".into()), InvalidKey::NotAKey);
    assert_eq!(why(|k| k[1]["x"] = k[1]["y"].clone()), InvalidKey::NotAKey);
    assert_eq!(why(|k| k[1]["d"] = "AAAA".into()), InvalidKey::Private);
}

#[test]
fn duplicate_jwt_key_ids_are_refused_and_roots_merged() {
    let (_, why) = refused_key(|d| {
        let key = d["keys"][1].clone();
        d["keys"].as_array_mut().unwrap().push(key);
    });
    assert_eq!(why, InvalidKey::KeyIdTwice("k1".into()));
    let mut twice = document();
    let root = twice["keys"][0].clone();
    twice["keys"].as_array_mut().unwrap().push(root);
    assert_eq!(read(&td(), twice.to_string().as_bytes()), Ok(bundle()));
}

#[test]
fn what_is_no_document_or_too_much_is_refused() {
    let error = |text: &str| read(&td(), text.as_bytes()).unwrap_err();
    for text in [
        "",
        "{}",
        "[]",
        r#"{"keys": null}"#,
        r#"{"keys": []} x"#,
        r#"{"keys":[],"spiffe_refresh_hint":-1}"#,
    ] {
        assert!(matches!(error(text), InvalidDocument::Json(_)), "{text}");
    }
    assert_eq!(
        error(&" ".repeat(MAX_DOCUMENT_LEN + 1)),
        InvalidDocument::TooLarge
    );
    let many = json!({ "keys": vec![json!({}); MAX_KEYS + 1] });
    assert_eq!(error(&many.to_string()), InvalidDocument::TooManyKeys);
}

#[test]
fn weak_and_enormous_rsa_keys_verify_no_jwt() {
    for (n, e) in [(128, "AQAB"), (1025, "AQAB"), (256, "AQ"), (256, "Ag")] {
        let (_, why) = refused_key(|d| {
            let n = URL.encode(vec![0xff; n]);
            d["keys"][1] = json!({"use": "jwt-svid", "kid": "k", "kty": "RSA", "n": n, "e": e});
        });
        assert_eq!(why, InvalidKey::RsaSize);
    }
}

#[test]
fn ed25519_is_for_roots_only() {
    let root_only = Bundle {
        x509_authorities: vec![ROOTS[ED25519].clone()],
        ..Bundle::empty(td())
    };
    let text = write(&root_only).unwrap();
    assert_eq!(read(&td(), text.as_bytes()), Ok(root_only));
    let for_jwt = Bundle {
        jwt_authorities: vec![jwt(&PAIRS[ED25519], "k")],
        ..Bundle::empty(td())
    };
    let text = write(&for_jwt).unwrap();
    assert!(matches!(
        read(&td(), text.as_bytes()),
        Err(InvalidDocument::Key {
            index: 0,
            why: InvalidKey::Unsupported
        })
    ));
}

#[test]
fn wit_svid_keys_and_foreign_members_are_passed_over() {
    let mut more = document();
    let mut wit = more["keys"][1].clone();
    wit["use"] = "wit-svid".into();
    more["keys"].as_array_mut().unwrap().push(wit);
    more["keys"][1]["alg"] = "ES256".into();
    more["more"] = json!({"x": 1});
    assert_eq!(read(&td(), more.to_string().as_bytes()), Ok(bundle()));
    more["keys"][2]["kid"] = "".into();
    assert!(read(&td(), more.to_string().as_bytes()).is_err());
}
