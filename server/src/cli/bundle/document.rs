//! A bundle as a SPIFFE bundle document (SPIFFE Trust Domain and Bundle, section 4): a JWK set that federated trust
//! domains read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_proto::spire::api::types;
use serde_json::{Map, Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::cli::error::CommandError;

/// The document, indented by four spaces as SPIRE prints it.
pub(super) fn document(bundle: &types::Bundle) -> Result<String, CommandError> {
    let x509 = bundle
        .x509_authorities
        .iter()
        .map(|authority| x509_key(&authority.asn1));
    let jwt = bundle.jwt_authorities.iter().map(jwt_key);
    let keys = x509
        .chain(jwt)
        .collect::<Result<Vec<_>, _>>()
        .map_err(CommandError::Answer)?;
    let mut document = Map::new();
    document.insert("keys".into(), keys.into());
    if bundle.sequence_number > 0 {
        document.insert("spiffe_sequence".into(), bundle.sequence_number.into());
    }
    if bundle.refresh_hint > 0 {
        document.insert("spiffe_refresh_hint".into(), bundle.refresh_hint.into());
    }
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    serde::Serialize::serialize(&document, &mut serializer)
        .map_err(|e| CommandError::Answer(e.to_string()))?;
    String::from_utf8(text).map_err(|e| CommandError::Answer(e.to_string()))
}

fn x509_key(der: &[u8]) -> Result<Value, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| format!("malformed authority: {e}"))?;
    let mut key = members(certificate.public_key())?;
    key.insert("use".into(), "x509-svid".into());
    key.insert("x5c".into(), json!([STANDARD.encode(der)]));
    Ok(key.into())
}

fn jwt_key(authority: &types::JwtKey) -> Result<Value, String> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(&authority.public_key)
        .map_err(|e| format!("malformed JWT key: {e}"))?;
    let mut key = members(&spki)?;
    key.insert("use".into(), "jwt-svid".into());
    key.insert("kid".into(), authority.key_id.clone().into());
    Ok(key.into())
}

/// The members of a JWK that are the public key itself (RFC 7518, sections 6.2.1 and 6.3.1).
fn members(spki: &SubjectPublicKeyInfo<'_>) -> Result<Map<String, Value>, String> {
    let members = match spki
        .parsed()
        .map_err(|e| format!("malformed public key: {e}"))?
    {
        PublicKey::EC(point) => {
            let (curve, coordinates) = match point.data() {
                [4, rest @ ..] if rest.len() == 64 => ("P-256", rest),
                [4, rest @ ..] if rest.len() == 96 => ("P-384", rest),
                [4, rest @ ..] if rest.len() == 132 => ("P-521", rest),
                _ => return Err("public key on a curve that is not supported".into()),
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
        }
        PublicKey::RSA(key) => json!({
            "kty": "RSA",
            "n": URL_SAFE_NO_PAD.encode(without_zeros(key.modulus)),
            "e": URL_SAFE_NO_PAD.encode(without_zeros(key.exponent)),
        }),
        _ => return Err("public key of a kind that is not supported".into()),
    };
    match members {
        Value::Object(members) => Ok(members),
        _ => Ok(Map::new()),
    }
}

/// An unsigned number as JWK wants it: without the zeros that DER puts before it.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_identity::issue::{Subject, self_signed_authority};
    use countersign_identity::key::{KeyType, PrivateKey, SigningKey as _};
    use countersign_identity::{TrustDomain, UnixTime};

    use super::*;

    fn bundle(key_type: KeyType) -> types::Bundle {
        let key = PrivateKey::generate(key_type).unwrap();
        let td = TrustDomain::new("td").unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let root = self_signed_authority(
            &td,
            &Subject::authority(),
            &key,
            Duration::from_secs(60),
            now,
        )
        .unwrap();
        types::Bundle {
            trust_domain: "td".into(),
            x509_authorities: vec![types::X509Certificate {
                asn1: root.to_vec().into(),
                tainted: false,
            }],
            jwt_authorities: vec![types::JwtKey {
                public_key: key.spki().to_vec().into(),
                key_id: "k1".into(),
                expires_at: 0,
                tainted: false,
            }],
            sequence_number: 7,
            ..types::Bundle::default()
        }
    }

    fn parsed(bundle: &types::Bundle) -> Value {
        serde_json::from_str(&document(bundle).unwrap()).unwrap()
    }

    #[test]
    fn members_are_those_of_the_key() {
        for (key_type, kty, members) in [
            (KeyType::EcP256, "EC", [("x", 43), ("y", 43)]),
            (KeyType::EcP384, "EC", [("x", 64), ("y", 64)]),
            (KeyType::Rsa2048, "RSA", [("n", 342), ("e", 4)]),
        ] {
            let bundle = bundle(key_type);
            let document = parsed(&bundle);
            let (x509, jwt) = (&document["keys"][0], &document["keys"][1]);
            assert_eq!(
                (x509["kty"].as_str(), x509["use"].as_str()),
                (Some(kty), Some("x509-svid"))
            );
            assert_eq!(
                x509["x5c"],
                json!([STANDARD.encode(&bundle.x509_authorities[0].asn1)])
            );
            assert_eq!(
                (jwt["use"].as_str(), jwt["kid"].as_str()),
                (Some("jwt-svid"), Some("k1"))
            );
            for (name, length) in members {
                assert_eq!(
                    x509[name].as_str().unwrap().len(),
                    length,
                    "{key_type} {name}"
                );
                assert_eq!(x509[name], jwt[name]);
            }
            assert!(x509.get("kid").is_none() && jwt.get("x5c").is_none());
        }
    }

    #[test]
    fn numbers_that_are_not_set_are_left_out() {
        let mut bundle = bundle(KeyType::EcP256);
        let document = parsed(&bundle);
        assert_eq!(document["spiffe_sequence"], 7);
        assert!(document.get("spiffe_refresh_hint").is_none());
        bundle.x509_authorities.clear();
        bundle.jwt_authorities.clear();
        assert_eq!(parsed(&bundle)["keys"], json!([]));
    }
}
