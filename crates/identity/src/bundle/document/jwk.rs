//! One key of a JWK set (RFC 7517), its members (RFC 7518, section 6; RFC 8037) and the SubjectPublicKeyInfo that they
//! stand for.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1,
    EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::bundle::InvalidAuthority;

/// The sizes of RSA keys that may sign JWT-SVIDs, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// RFC 7518 has no padding; writers that pad anyway mean the same bytes.
const MEMBER: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a JWK cannot be used, or a public key cannot be written as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// It has no `use`.
    #[error("missing use")]
    UseMissing,
    /// Its `use` is another one.
    #[error("unrecognized use {0:?}")]
    UnknownUse(String),
    /// Not a kind that is supported.
    #[error("key must be EC P-256, EC P-384, EC P-521, Ed25519 or RSA")]
    Unsupported,
    /// A required member is missing.
    #[error("missing member {0:?}")]
    MemberMissing(&'static str),
    /// A member is not base64url.
    #[error("member {0:?} is not base64")]
    Base64(&'static str),
    /// It is a private key. Its owner must replace it, since it was published.
    #[error("it is a private key, which its owner must replace")]
    Private,
    /// A number of the wrong length, or a point that is not on the curve.
    #[error("members are not a public key of this kind")]
    NotAKey,
    /// An RSA key that is too weak, or too large to work with.
    #[error("RSA key must have {} to {} bits and an odd exponent of 3 or more", RSA_BITS.start(), RSA_BITS.end())]
    RsaSize,
    /// Not the one certificate that an X.509 authority has.
    #[error("expected a single certificate; got {0}")]
    CertificateCount(usize),
    /// Its certificate is no authority.
    #[error("{0}")]
    Certificate(InvalidAuthority),
    /// Its certificate is of another key.
    #[error("members don't match the certificate")]
    CertificateMismatch,
    /// It has no ID.
    #[error("missing key ID")]
    KeyIdMissing,
    /// Its ID is too long.
    #[error("key ID is longer than {} bytes", super::MAX_KEY_ID_LEN)]
    KeyIdTooLong,
    /// Another key of the same use has this ID.
    #[error("key ID {0:?} is used twice")]
    KeyIdTwice(String),
}

/// A JWK's JSON, with members in the order in which they are written.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub(super) key_use: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kty: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) x5c: Vec<String>,
    /// Present only in private keys; its content is not parsed.
    #[serde(default, skip_serializing)]
    d: Option<serde::de::IgnoredAny>,
}

/// The curves of RFC 7518.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The length of a coordinate, in bytes.
    const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// The curve's OID in DER.
    const fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Self::P384 => &[6, 5, 0x2b, 0x81, 4, 0, 34],
            Self::P521 => &[6, 5, 0x2b, 0x81, 4, 0, 35],
        }
    }

    fn algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
            Self::P521 => &ECDSA_P521_SHA512_ASN1,
        }
    }
}

const EC_PUBLIC_KEY: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ED25519: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];
const NULL: &[u8] = &[5, 0];
const ED25519_LEN: usize = 32;

/// A public key as its numbers. Two of them are equal if they are the same key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PublicNumbers {
    /// A point, uncompressed: 4, x, y.
    Ec(Curve, Vec<u8>),
    /// Modulus and exponent, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// RFC 8032.
    Ed25519(Vec<u8>),
}

impl fmt::Debug for PublicNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ec(curve, _) => write!(f, "PublicNumbers({})", curve.name()),
            Self::Rsa { n, .. } => write!(f, "PublicNumbers(RSA, {} bits)", n.len() * 8),
            Self::Ed25519(_) => f.write_str("PublicNumbers(Ed25519)"),
        }
    }
}

impl PublicNumbers {
    /// Reads a SubjectPublicKeyInfo in DER.
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, InvalidKey> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], spki)) => Self::from_parsed(&spki),
            _ => Err(InvalidKey::NotAKey),
        }
    }

    pub(super) fn from_parsed(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, InvalidKey> {
        if spki.algorithm.algorithm.as_bytes() == ED25519.get(2..).unwrap_or_default() {
            return Self::ed25519(spki.subject_public_key.data.to_vec());
        }
        match spki.parsed().map_err(|_| InvalidKey::NotAKey)? {
            Parsed::EC(point) => {
                let curve = Curve::ALL
                    .into_iter()
                    .find(|c| point.data().len() == 1 + 2 * c.len())
                    .ok_or(InvalidKey::Unsupported)?;
                Self::ec(curve, point.data().to_vec())
            }
            Parsed::RSA(key) => Self::rsa(key.modulus, key.exponent),
            _ => Err(InvalidKey::Unsupported),
        }
    }

    /// Reads the members of a JWK.
    pub(super) fn from_jwk(key: &Jwk) -> Result<Self, InvalidKey> {
        if key.d.is_some() {
            return Err(InvalidKey::Private);
        }
        match (key.kty.as_deref(), key.crv.as_deref()) {
            (None, _) => Err(InvalidKey::MemberMissing("kty")),
            (Some("EC"), Some(name)) => {
                let curve = Curve::ALL
                    .into_iter()
                    .find(|c| c.name() == name)
                    .ok_or(InvalidKey::Unsupported)?;
                let (x, y) = (member("x", key.x.as_ref())?, member("y", key.y.as_ref())?);
                if x.len() != curve.len() || y.len() != curve.len() {
                    return Err(InvalidKey::NotAKey);
                }
                Self::ec(curve, [&[4], x.as_slice(), &y].concat())
            }
            (Some("RSA"), _) => {
                Self::rsa(&member("n", key.n.as_ref())?, &member("e", key.e.as_ref())?)
            }
            (Some("OKP"), Some("Ed25519")) => Self::ed25519(member("x", key.x.as_ref())?),
            (Some("EC" | "OKP"), None) => Err(InvalidKey::MemberMissing("crv")),
            _ => Err(InvalidKey::Unsupported),
        }
    }

    fn ec(curve: Curve, point: Vec<u8>) -> Result<Self, InvalidKey> {
        if point.first() != Some(&4) || point.len() != 1 + 2 * curve.len() {
            return Err(InvalidKey::NotAKey);
        }
        // Says whether the point is on the curve.
        ParsedPublicKey::new(curve.algorithm(), &point).map_err(|_| InvalidKey::NotAKey)?;
        Ok(Self::Ec(curve, point))
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, InvalidKey> {
        let (n, e) = (without_zeros(n).to_vec(), without_zeros(e).to_vec());
        if n.is_empty() || e.is_empty() {
            return Err(InvalidKey::NotAKey);
        }
        Ok(Self::Rsa { n, e })
    }

    fn ed25519(key: Vec<u8>) -> Result<Self, InvalidKey> {
        if key.len() != ED25519_LEN {
            return Err(InvalidKey::NotAKey);
        }
        Ok(Self::Ed25519(key))
    }

    /// Whether JWT-SVIDs can be verified with this key: ECDSA and RSA only (JWT-SVID, section 2.1).
    pub(super) fn check_for_jwt(&self) -> Result<(), InvalidKey> {
        match self {
            Self::Ec(..) => Ok(()),
            Self::Rsa { n, e } => {
                let odd = e.last().is_some_and(|b| b % 2 == 1) && e.as_slice() != [1];
                let top = n.first().map_or(0, |b| b.leading_zeros() as usize);
                let fits = RSA_BITS.contains(&(n.len() * 8 - top)) && odd && e.len() <= 8;
                if fits {
                    Ok(())
                } else {
                    Err(InvalidKey::RsaSize)
                }
            }
            Self::Ed25519(_) => Err(InvalidKey::Unsupported),
        }
    }

    /// The key as members of a JWK.
    pub(super) fn to_jwk(&self) -> Jwk {
        let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        match self {
            Self::Ec(curve, point) => {
                let coordinates = point.get(1..).unwrap_or_default();
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                Jwk {
                    kty: Some("EC".into()),
                    crv: Some(curve.name().into()),
                    x: text(x),
                    y: text(y),
                    ..Jwk::default()
                }
            }
            Self::Rsa { n, e } => Jwk {
                kty: Some("RSA".into()),
                n: text(n),
                e: text(e),
                ..Jwk::default()
            },
            Self::Ed25519(key) => Jwk {
                kty: Some("OKP".into()),
                crv: Some("Ed25519".into()),
                x: text(key),
                ..Jwk::default()
            },
        }
    }

    /// The key as SubjectPublicKeyInfo in DER (RFC 5280, section 4.1; RFC 3279, RFC 5480, RFC 8410).
    pub(super) fn to_spki(&self) -> Vec<u8> {
        let (algorithm, bits) = match self {
            Self::Ec(curve, point) => ([EC_PUBLIC_KEY, curve.oid()].concat(), point.clone()),
            Self::Rsa { n, e } => {
                let numbers = [unsigned(n), unsigned(e)].concat();
                ([RSA_ENCRYPTION, NULL].concat(), der(0x30, &numbers))
            }
            Self::Ed25519(key) => (ED25519.to_vec(), key.clone()),
        };
        let bits = der(3, &[&[0], bits.as_slice()].concat());
        der(0x30, &[der(0x30, &algorithm), bits].concat())
    }
}

fn member(name: &'static str, value: Option<&String>) -> Result<Vec<u8>, InvalidKey> {
    let text = value.ok_or(InvalidKey::MemberMissing(name))?;
    MEMBER.decode(text).map_err(|_| InvalidKey::Base64(name))
}

/// An unsigned number without the zeros that DER puts before it.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// An INTEGER of this unsigned number, which has no leading zeros.
fn unsigned(number: &[u8]) -> Vec<u8> {
    match number.first() {
        Some(first) if *first < 0x80 => der(2, number),
        _ => der(2, &[&[0], number].concat()),
    }
}

/// One value in DER: tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = without_zeros(&length);
    let mut value = Vec::with_capacity(content.len() + 10);
    value.push(tag);
    match length {
        [] => value.push(0),
        [short] if *short < 0x80 => value.push(*short),
        // A length has at most 8 bytes.
        long => {
            value.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            value.extend_from_slice(long);
        }
    }
    value.extend_from_slice(content);
    value
}
