//! Bundles as JSON: the SPIFFE bundle document that trust domains read from each other (SPIFFE Trust Domain and Bundle,
//! section 4), and the plain JWK set of JWT keys that the Workload API hands out.
//!
//! Writing is deterministic: keys are in the bundle's order, members in a fixed one. Reading is strict: one unusable
//! key invalidates the whole document, so that no bundle silently loses a key (decision 0014). The format has no
//! members for taint and for the expiry of JWT keys.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{Bundle, InvalidAuthority, JwtAuthority, X509Authority};
use crate::TrustDomain;
use jwk::{Jwk, PublicNumbers};

mod jwk;

pub use jwk::InvalidKey;

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 * 1024 * 1024;
/// The most keys of all kinds in a document that is read.
pub const MAX_KEYS: usize = 1_024;
/// The longest key ID in a document that is read, in bytes.
pub const MAX_KEY_ID_LEN: usize = 1_024;
/// The longest refresh hint; a longer one is clamped to it.
pub const MAX_REFRESH_HINT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const WIT_SVID: &str = "wit-svid";

/// Why a text is not a SPIFFE bundle document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDocument {
    /// Larger than [`MAX_DOCUMENT_LEN`].
    #[error("bundle document is larger than {MAX_DOCUMENT_LEN} bytes")]
    TooLarge,
    /// Not JSON, or a member has the wrong type.
    #[error("bundle document is not a JWK set in JSON: {0}")]
    Json(String),
    /// More than [`MAX_KEYS`] keys.
    #[error("bundle document has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A key that cannot be used.
    #[error("key {index} of the bundle document: {why}")]
    Key {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong with it.
        why: InvalidKey,
    },
}

/// An authority has a public key that can't be written as a JWK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{authority} cannot stand in a bundle document: {why}")]
pub struct Unwritable {
    /// Which authority.
    pub authority: String,
    /// What is wrong with its key.
    pub why: InvalidKey,
}

#[derive(Serialize, Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(default, skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The bundle as a SPIFFE bundle document, indented by four spaces.
///
/// # Errors
/// An authority with a key of a kind that JWK sets cannot express here.
pub fn write(bundle: &Bundle) -> Result<String, Unwritable> {
    let x509 = bundle.x509_authorities.iter().map(x509_key);
    let jwt = bundle.jwt_authorities.iter().map(|a| jwt_key(a, JWT_SVID));
    let document = Document {
        keys: x509.chain(jwt).collect::<Result<_, _>>()?,
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: bundle.refresh_hint.map_or(0, |hint| hint.as_secs()),
    };
    Ok(pretty(&document))
}

/// The JWT keys of a bundle as a plain JWK set, without SPIFFE's additional members.
///
/// # Errors
/// A key of a kind that JWK sets cannot express here.
pub fn jwks(bundle: &Bundle) -> Result<String, Unwritable> {
    #[derive(Serialize)]
    struct JwkSet {
        keys: Vec<Jwk>,
    }

    let keys = bundle.jwt_authorities.iter().map(|a| jwt_key(a, ""));
    Ok(pretty(&JwkSet {
        keys: keys.collect::<Result<_, _>>()?,
    }))
}

/// Reads the SPIFFE bundle document of a trust domain. Keys for WIT-SVIDs are checked and ignored: nothing here uses
/// them.
///
/// # Errors
/// The rule that the document breaks. Then none of it counts.
pub fn read(trust_domain: &TrustDomain, json: &[u8]) -> Result<Bundle, InvalidDocument> {
    if json.len() > MAX_DOCUMENT_LEN {
        return Err(InvalidDocument::TooLarge);
    }
    let document: Document =
        serde_json::from_slice(json).map_err(|e| InvalidDocument::Json(e.to_string()))?;
    if document.keys.len() > MAX_KEYS {
        return Err(InvalidDocument::TooManyKeys);
    }
    let mut bundle = Bundle::empty(trust_domain.clone());
    let mut seen = HashSet::new();
    for (index, key) in document.keys.iter().enumerate() {
        key_into(&mut bundle, &mut seen, key).map_err(|why| InvalidDocument::Key { index, why })?;
    }
    bundle.sequence_number = document.spiffe_sequence;
    bundle.refresh_hint = Some(document.spiffe_refresh_hint)
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Duration::from_secs(seconds).min(MAX_REFRESH_HINT));
    Ok(bundle)
}

fn key_into<'a>(
    bundle: &mut Bundle,
    seen: &mut HashSet<(&'a str, &'a str)>,
    key: &'a Jwk,
) -> Result<(), InvalidKey> {
    let public = PublicNumbers::from_jwk(key)?;
    match key.key_use.as_deref() {
        Some(X509_SVID) => {
            let [certificate] = key.x5c.as_slice() else {
                return Err(InvalidKey::CertificateCount(key.x5c.len()));
            };
            let authority = x509_authority(&public, certificate)?;
            // The same root twice is one root.
            if seen.insert((X509_SVID, certificate)) {
                bundle.x509_authorities.push(authority);
            }
        }
        Some(JWT_SVID) => {
            let key_id = key_id(seen, JWT_SVID, key)?;
            public.check_for_jwt()?;
            bundle.jwt_authorities.push(JwtAuthority {
                key_id,
                public_key: public.to_spki(),
                expires_at: None,
                tainted: false,
            });
        }
        Some(WIT_SVID) => {
            key_id(seen, WIT_SVID, key)?;
        }
        None | Some("") => return Err(InvalidKey::UseMissing),
        Some(other) => return Err(InvalidKey::UnknownUse(quotable(other))),
    }
    Ok(())
}

fn x509_authority(public: &PublicNumbers, base64: &str) -> Result<X509Authority, InvalidKey> {
    let der = STANDARD
        .decode(base64)
        .map_err(|_| InvalidKey::Base64("x5c"))?;
    let authority =
        X509Authority::new(CertificateDer::from(der)).map_err(InvalidKey::Certificate)?;
    if of_certificate(&authority)? != *public {
        return Err(InvalidKey::CertificateMismatch);
    }
    Ok(authority)
}

fn key_id<'a>(
    seen: &mut HashSet<(&'a str, &'a str)>,
    key_use: &'static str,
    key: &'a Jwk,
) -> Result<String, InvalidKey> {
    match key.kid.as_deref() {
        None | Some("") => Err(InvalidKey::KeyIdMissing),
        Some(id) if id.len() > MAX_KEY_ID_LEN => Err(InvalidKey::KeyIdTooLong),
        Some(id) if !seen.insert((key_use, id)) => Err(InvalidKey::KeyIdTwice(quotable(id))),
        Some(id) => Ok(id.to_owned()),
    }
}

/// The start of a foreign text, short enough for an error message.
fn quotable(word: &str) -> String {
    word.chars().take(64).collect()
}

fn x509_key(authority: &X509Authority) -> Result<Jwk, Unwritable> {
    let public = of_certificate(authority).map_err(|why| Unwritable {
        authority: format!("X.509 authority {:?}", authority.authority_id()),
        why,
    })?;
    let mut key = public.to_jwk();
    key.key_use = Some(X509_SVID.into());
    key.x5c = vec![STANDARD.encode(authority.der())];
    Ok(key)
}

fn jwt_key(authority: &JwtAuthority, key_use: &str) -> Result<Jwk, Unwritable> {
    let public = PublicNumbers::from_spki(&authority.public_key).map_err(|why| Unwritable {
        authority: format!("JWT authority {:?}", authority.key_id),
        why,
    })?;
    let mut key = public.to_jwk();
    key.key_use = Some(key_use.to_owned()).filter(|u| !u.is_empty());
    key.kid = Some(authority.key_id.clone());
    Ok(key)
}

fn of_certificate(authority: &X509Authority) -> Result<PublicNumbers, InvalidKey> {
    let (_, certificate) = X509Certificate::from_der(authority.der())
        .map_err(|e| InvalidKey::Certificate(InvalidAuthority::Malformed(e.to_string())))?;
    PublicNumbers::from_parsed(certificate.public_key())
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    // Writing text and numbers into memory has nothing that could fail.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "{written:?}");
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
