//! Tokens made and read back, and tokens of every bad kind.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::bundle::JwtAuthority;
use crate::key::{KeyType, PrivateKey, SigningKey as _};
use crate::{Bundle, BundleSet, SpiffeId, TrustDomain, UnixTime};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://ai-agents.org/coder").unwrap()
}

fn signer(key_type: KeyType) -> JwtSigner {
    let key = PrivateKey::generate(key_type).unwrap();
    JwtSigner::new(Arc::new(key), "k1".into(), NOW.after(60 * MINUTE))
}

fn bundle(authorities: impl IntoIterator<Item = JwtAuthority>) -> Bundle {
    let mut bundle = Bundle::empty(TrustDomain::new("ai-agents.org").unwrap());
    bundle.jwt_authorities.extend(authorities);
    bundle
}

fn issue(signer: &JwtSigner, audience: &[&str]) -> Result<IssuedJwt, JwtIssueError> {
    let audience: Vec<String> = audience.iter().map(|a| (*a).to_owned()).collect();
    let template = JwtTemplate {
        id: &id(),
        audience: &audience,
        ttl: 5 * MINUTE,
        issuer: None,
        with_id: false,
    };
    signer.issue(&template, NOW)
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A token with this header and these claims, signed by a P-256 key.
fn forge(key: &PrivateKey, header: &str, claims: &str) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = key.sign(signed.as_bytes()).unwrap();
    let signature = Algorithm::Es256.to_jws(signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"aud":["a"],"exp":1800000060,"sub":"spiffe://ai-agents.org/coder"}"#;

/// What becomes of a token with this header and these claims and a sound signature.
fn judge(header: &str, claims: &str) -> Result<VerifiedJwt, InvalidJwt> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let token = forge(&key, header, claims);
    let signer = JwtSigner::new(Arc::new(key), "k1".into(), NOW.after(MINUTE));
    let bundles = BundleSet::from_iter([bundle([signer.authority()])]);
    verify_jwt(&token, &bundles, &["a"], NOW, Duration::ZERO)
}

#[test]
fn each_type_of_key_signs_what_verifies() {
    let types = [
        (KeyType::EcP256, "ES256", 64),
        (KeyType::EcP384, "ES384", 96),
        (KeyType::Rsa2048, "RS256", 256),
    ];
    for (key_type, algorithm, length) in types {
        let signer = signer(key_type);
        let issued = issue(&signer, &["a", "b"]).unwrap();
        let header = json!({"alg": algorithm, "kid": "k1", "typ": "JWT"});
        assert_eq!(part(&issued.token, 0), header);
        let signature = issued.token.rsplit('.').next().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), length);
        let bundle = bundle([signer.authority()]);
        let verified = Jwt::parse(&issued.token)
            .unwrap()
            .verify(&bundle, &["b"], NOW, Duration::ZERO)
            .unwrap();
        assert_eq!(verified.id, id());
        assert_eq!(verified.audience, ["a", "b"]);
        assert_eq!(verified.issued_at, Some(NOW));
        assert_eq!(verified.expires_at, NOW.after(5 * MINUTE));
        assert_eq!(Value::Object(verified.claims), part(&issued.token, 1));
    }
}

#[test]
fn claims_are_as_spire_writes_them() {
    let signer = signer(KeyType::EcP256);
    let issued = issue(&signer, &["a"]).unwrap();
    let claims = json!({
        "sub": "spiffe://ai-agents.org/coder",
        "aud": ["a"],
        "iat": 1_800_000_000_u64,
        "exp": 1_800_000_300_u64,
    });
    assert_eq!(part(&issued.token, 1), claims);
    assert_eq!(
        (issued.issued_at, issued.expires_at),
        (NOW, NOW.after(5 * MINUTE))
    );

    let template = JwtTemplate {
        id: &id(),
        audience: &[String::new(), "a".into()],
        ttl: 5 * MINUTE,
        issuer: Some("https://issuer.example"),
        with_id: true,
    };
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let claims = part(&signer.issue(&template, NOW).unwrap().token, 1);
            assert_eq!(claims["iss"], "https://issuer.example");
            assert_eq!(claims["aud"], json!(["a"]));
            claims["jti"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
    let uuid = URL_SAFE_NO_PAD.decode(&ids[0]).unwrap();
    assert_eq!((uuid.len(), uuid[6] >> 4, uuid[8] >> 6), (16, 4, 2));
}

#[test]
fn no_token_outlives_its_authority_and_none_is_signed_after_it() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let signer = JwtSigner::new(Arc::new(key), "k".into(), NOW.after(MINUTE));
    let issued = issue(&signer, &["a"]).unwrap();
    assert_eq!(issued.expires_at, NOW.after(MINUTE));
    assert_eq!(part(&issued.token, 1)["exp"], 1_800_000_060_u64);
    let audience = ["a".to_owned()];
    let template = JwtTemplate {
        id: &id(),
        audience: &audience,
        ttl: MINUTE,
        issuer: None,
        with_id: false,
    };
    assert_eq!(
        signer.issue(&template, NOW.after(MINUTE)),
        Err(JwtIssueError::Expired(NOW.after(MINUTE)))
    );
}

#[test]
fn a_token_is_for_somebody_and_not_endless() {
    let signer = signer(KeyType::EcP256);
    assert_eq!(issue(&signer, &[]), Err(JwtIssueError::NoAudience));
    assert_eq!(issue(&signer, &["", ""]), Err(JwtIssueError::NoAudience));
    let long = "a".repeat(MAX_JWT_LEN);
    assert_eq!(issue(&signer, &[&long]), Err(JwtIssueError::TooLong));
    // Whatever is issued can be verified.
    let just = (MAX_JWT_LEN - 1_000) / 4 * 3;
    let issued = issue(&signer, &[&"a".repeat(just)]).unwrap();
    assert!(issued.token.len() <= MAX_JWT_LEN && Jwt::parse(&issued.token).is_ok());
}

#[test]
fn tokens_do_not_show_in_debug_output() {
    let issued = issue(&signer(KeyType::EcP256), &["a"]).unwrap();
    let signature = issued.token.rsplit('.').next().unwrap();
    assert!(!format!("{issued:?}").contains(signature));
    let jwt = Jwt::parse(&issued.token).unwrap();
    assert!(!format!("{jwt:?}").contains(signature));
}

#[test]
fn every_algorithm_of_the_standard_verifies() {
    let random = SystemRandom::new();
    let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let rsa_pair = RsaKeyPair::from_pkcs8(&rsa.to_pkcs8()).unwrap();
    let encodings: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    let token = |algorithm: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let header = format!(r#"{{"alg":"{algorithm}","kid":"k1"}}"#);
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(CLAIMS)
        );
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let verify = |token: &str, public_key: &[u8]| {
        let authority = JwtAuthority {
            key_id: "k1".into(),
            public_key: public_key.to_vec(),
            expires_at: None,
            tainted: false,
        };
        let jwt = Jwt::parse(token).unwrap();
        jwt.verify(&bundle([authority]), &["a"], NOW, Duration::ZERO)
    };
    for (algorithm, encoding) in encodings {
        let token = token(algorithm, &|message| {
            let mut signature = vec![0; rsa_pair.public_modulus_len()];
            rsa_pair
                .sign(encoding, &random, message, &mut signature)
                .unwrap();
            signature
        });
        assert_eq!(verify(&token, rsa.spki()).unwrap().id, id(), "{algorithm}");
    }

    let p521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(
        &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        &p521.serialize_der(),
    )
    .unwrap();
    assert_eq!(pair.public_key().as_ref().len(), 133);
    let token = token("ES512", &|message| {
        pair.sign(&random, message).unwrap().as_ref().to_vec()
    });
    let spki = rcgen::PublicKeyData::subject_public_key_info(&p521);
    assert_eq!(verify(&token, &spki).unwrap().id, id());
    // The same token against a key of another kind.
    assert_eq!(verify(&token, rsa.spki()), Err(InvalidJwt::Signature));
    assert_eq!(verify(&token, b"no key"), Err(InvalidJwt::Signature));
}

#[test]
fn a_header_is_as_the_standard_wants_it() {
    for header in [
        HEADER,
        r#"{"alg":"ES256","kid":"k1"}"#,
        r#"{"alg":"ES256","kid":"k1","typ":"JOSE","other":1}"#,
    ] {
        judge(header, CLAIMS).unwrap();
    }
    let bad = [
        (r#"{"alg":"none","kid":"k1"}"#, InvalidJwt::Algorithm),
        (r#"{"alg":"HS256","kid":"k1"}"#, InvalidJwt::Algorithm),
        (r#"{"alg":"EdDSA","kid":"k1"}"#, InvalidJwt::Algorithm),
        (r#"{"kid":"k1"}"#, InvalidJwt::Algorithm),
        (r#"{"alg":7,"kid":"k1"}"#, InvalidJwt::Algorithm),
        (r#"{"alg":"ES256"}"#, InvalidJwt::KeyIdMissing),
        (r#"{"alg":"ES256","kid":""}"#, InvalidJwt::KeyIdMissing),
        (r#"{"alg":"ES256","kid":3}"#, InvalidJwt::KeyIdMissing),
        (
            r#"{"alg":"ES256","kid":"k1","typ":"at+jwt"}"#,
            InvalidJwt::Type,
        ),
        (r#"{"alg":"ES256","kid":"k1","typ":null}"#, InvalidJwt::Type),
        (
            r#"{"alg":"ES256","kid":"k1","crit":["b64"],"b64":false}"#,
            InvalidJwt::Critical,
        ),
        // A key of another kind than the algorithm's.
        (r#"{"alg":"RS256","kid":"k1"}"#, InvalidJwt::Signature),
        (r#"{"alg":"ES384","kid":"k1"}"#, InvalidJwt::Signature),
    ];
    for (header, error) in bad {
        assert_eq!(judge(header, CLAIMS), Err(error), "{header}");
    }
    assert_eq!(
        judge(r#"{"alg":"ES256","kid":"k2"}"#, CLAIMS),
        Err(InvalidJwt::UnknownKey {
            key_id: "k2".into(),
            trust_domain: TrustDomain::new("ai-agents.org").unwrap()
        })
    );
}

#[test]
fn a_member_that_stands_twice_makes_the_token_none() {
    let twice = r#"{"alg":"ES256","kid":"k1","kid":"k1"}"#;
    assert!(matches!(
        judge(twice, CLAIMS),
        Err(InvalidJwt::Malformed(_))
    ));
    let twice = r#"{"aud":"b","aud":"a","exp":1800000060,"sub":"spiffe://ai-agents.org/coder"}"#;
    assert!(matches!(
        judge(HEADER, twice),
        Err(InvalidJwt::Malformed(_))
    ));
}

#[test]
fn claims_are_as_the_standard_wants_them() {
    let with = |claims: &str| judge(HEADER, &format!("{{{claims}}}"));
    let sub = r#""sub":"spiffe://ai-agents.org/coder""#;
    assert!(with(&format!(r#"{sub},"aud":"a","exp":1800000060"#)).is_ok());
    assert!(with(&format!(r#"{sub},"aud":["x","a"],"exp":1800000060.5"#)).is_ok());
    let bad = [
        (
            r#""aud":"a","exp":1800000060"#.to_owned(),
            InvalidJwt::SubjectMissing,
        ),
        (
            r#""sub":"","aud":"a","exp":1800000060"#.into(),
            InvalidJwt::SubjectMissing,
        ),
        (
            r#""sub":1,"aud":"a","exp":1800000060"#.into(),
            InvalidJwt::Claim("sub"),
        ),
        (
            r#""sub":"https://x/","aud":"a","exp":1800000060"#.into(),
            InvalidJwt::Subject(crate::spiffe_id::InvalidId::Scheme),
        ),
        (
            r#""sub":"spiffe://other.org/w","aud":"a","exp":1800000060"#.into(),
            InvalidJwt::NoBundle(TrustDomain::new("other.org").unwrap()),
        ),
        (format!(r#"{sub},"aud":"a""#), InvalidJwt::ExpiryMissing),
        (
            format!(r#"{sub},"aud":"a","exp":"1800000060""#),
            InvalidJwt::Claim("exp"),
        ),
        (
            format!(r#"{sub},"aud":"a","exp":-1"#),
            InvalidJwt::Claim("exp"),
        ),
        (
            format!(r#"{sub},"aud":"a","exp":1799999999"#),
            InvalidJwt::Expired,
        ),
        (
            format!(r#"{sub},"aud":7,"exp":1800000060"#),
            InvalidJwt::Claim("aud"),
        ),
        (
            format!(r#"{sub},"aud":["a",7],"exp":1800000060"#),
            InvalidJwt::Claim("aud"),
        ),
        (
            format!(r#"{sub},"aud":"a","exp":1800000060,"nbf":1800000001"#),
            InvalidJwt::NotYetValid(UnixTime::from_secs(1_800_000_001)),
        ),
        (
            format!(r#"{sub},"aud":"a","exp":1800000060,"iat":1800000001"#),
            InvalidJwt::IssuedInFuture(UnixTime::from_secs(1_800_000_001)),
        ),
    ];
    for (claims, error) in bad {
        assert_eq!(with(&claims), Err(error), "{claims}");
    }
    for audience in ["", r#""aud":[],"#, r#""aud":"A","#] {
        let refused = with(&format!(r#"{audience}{sub},"exp":1800000060"#));
        assert!(
            matches!(refused, Err(InvalidJwt::Audience { .. })),
            "{audience}"
        );
    }
}

#[test]
fn leeway_moves_each_limit_by_as_much() {
    let signer = signer(KeyType::EcP256);
    let issued = issue(&signer, &["a"]).unwrap();
    let bundles = BundleSet::from_iter([bundle([signer.authority()])]);
    let at = |now, leeway| verify_jwt(&issued.token, &bundles, &["a"], now, leeway).map(drop);
    let end = issued.expires_at;
    let second = Duration::from_secs(1);
    assert_eq!(at(end, Duration::ZERO), Ok(()));
    assert_eq!(
        at(end.after(second), Duration::ZERO),
        Err(InvalidJwt::Expired)
    );
    assert_eq!(at(end.after(LEEWAY), LEEWAY), Ok(()));
    assert_eq!(
        at(end.after(LEEWAY + second), LEEWAY),
        Err(InvalidJwt::Expired)
    );
    assert_eq!(at(NOW.before(LEEWAY), LEEWAY), Ok(()));
    assert_eq!(
        at(NOW.before(LEEWAY + second), LEEWAY),
        Err(InvalidJwt::IssuedInFuture(NOW))
    );
}

#[test]
fn nothing_but_three_parts_of_base64url_is_a_token() {
    let token = issue(&signer(KeyType::EcP256), &["a"]).unwrap().token;
    let dots = token.replace('.', "..");
    let spaced = format!("{token} ");
    let padded = format!("{token}=");
    let fourth = format!("{token}.e30");
    for bad in [
        "", ".", "..", "a.b.c", "{}", &dots, &spaced, &padded, &fourth,
    ] {
        assert!(
            matches!(Jwt::parse(bad), Err(InvalidJwt::Malformed(_))),
            "{bad}"
        );
    }
    assert_eq!(
        Jwt::parse(&"a".repeat(MAX_JWT_LEN + 1)).err(),
        Some(InvalidJwt::TooLong)
    );
}

#[test]
fn a_changed_token_does_not_verify() {
    let signer = signer(KeyType::EcP256);
    let token = issue(&signer, &["a"]).unwrap().token;
    let bundles = BundleSet::from_iter([bundle([signer.authority()])]);
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let verdict = verify_jwt(&changed, &bundles, &["a"], NOW, Duration::ZERO);
        assert!(verdict.is_err(), "byte {at}");
    }
}

#[test]
fn key_ids_are_32_letters_and_digits_and_differ() {
    let ids: Vec<String> = (0..50).map(|_| random_key_id().unwrap()).collect();
    for id in &ids {
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    }
    let distinct: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}
