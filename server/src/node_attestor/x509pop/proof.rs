//! The messages of x509pop, and the check of the proof.
//!
//! What is signed is the digest of both nonces, as it is. Since that digest is SHA-256 of their concatenation, and the
//! signatures hash with SHA-256, checking a signature of the concatenation is the same.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RSA_PSS_2048_8192_SHA256, RsaPssSaltLength,
    VerificationAlgorithm as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::Rng as _;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::super::AttestError;
use super::leaf::{Key, Leaf};

/// How long each side's nonce is, in bytes.
const NONCE: usize = 32;
/// The longest number in an ECDSA signature: the order of P-521, in bytes.
const MAX_SCALAR: usize = 66;
/// The length of a SHA-256 digest, in bytes.
const DIGEST: usize = 32;

/// Bytes in standard base64; `null` is none.
#[derive(Default)]
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    certificates: Option<Vec<Base64>>,
}

/// The certificates that a node sent, leaf first.
pub(super) fn certificates(payload: &[u8]) -> Result<Vec<Vec<u8>>, AttestError> {
    let payload: Payload = object(payload)
        .map_err(|e| AttestError::Invalid(format!("failed to unmarshal data: {e}")))?;
    let certificates = payload.certificates.unwrap_or_default();
    Ok(certificates.into_iter().map(|Base64(der)| der).collect())
}

/// Reads an object, and not a list of its fields, which serde would take too.
fn object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("an object should stand here"));
    }
    serde_json::from_slice(json)
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    rsa_signature: Option<RsaSignature>,
    #[serde(default)]
    ecdsa_signature: Option<EcdsaSignature>,
}

#[derive(Deserialize)]
struct RsaSignature {
    #[serde(default)]
    nonce: Base64,
    #[serde(default)]
    signature: Base64,
}

#[derive(Deserialize)]
struct EcdsaSignature {
    #[serde(default)]
    nonce: Base64,
    #[serde(default)]
    r: Base64,
    #[serde(default)]
    s: Base64,
}

/// A nonce for the node to sign.
pub(super) struct Challenge {
    nonce: [u8; NONCE],
    kind: &'static str,
    other: &'static str,
}

impl Challenge {
    /// A challenge for this certificate's key.
    pub(super) fn new(leaf: &Leaf) -> Result<Self, &'static str> {
        if !leaf.may_sign {
            return Err("certificate not intended for digital signature use");
        }
        let (kind, other) = match &leaf.key {
            Key::Rsa { .. } => ("rsa_signature", "ecdsa_signature"),
            Key::EcP256(_) | Key::EcP384(_) | Key::EcP521(_) => {
                ("ecdsa_signature", "rsa_signature")
            }
            Key::Other => {
                return Err(
                    "unsupported public key type: it must be RSA, or ECDSA on P-256, P-384 or P-521",
                );
            }
        };
        Ok(Self {
            nonce: rand::rng().random(),
            kind,
            other,
        })
    }

    pub(super) fn to_json(&self) -> Bytes {
        let nonce = STANDARD.encode(self.nonce);
        let mut json = serde_json::json!({ self.kind: { "nonce": nonce } });
        if let Some(fields) = json.as_object_mut() {
            fields.insert(self.other.into(), serde_json::Value::Null);
        }
        json.to_string().into()
    }

    /// Checks that the response proves possession of the leaf's key.
    pub(super) async fn check(&self, leaf: &Leaf, response: &[u8]) -> Result<(), AttestError> {
        let response: Response = object(response).map_err(|e| {
            AttestError::Invalid(format!("unable to unmarshal challenge response: {e}"))
        })?;
        self.verify(&leaf.key, response).await.map_err(|why| {
            AttestError::Denied(format!("challenge response verification failed: {why}"))
        })
    }

    async fn verify(&self, key: &Key, response: Response) -> Result<(), &'static str> {
        let (algorithm, point) = match key {
            Key::Rsa { spki, bits } => {
                let rsa = response.rsa_signature.ok_or("expecting RSA response")?;
                let message = self.signed(&rsa.nonce)?;
                return verify_rsa(spki, *bits, &message, &rsa.signature.0).await;
            }
            Key::EcP256(point) => (&signature::ECDSA_P256_SHA256_ASN1, point),
            Key::EcP384(point) => (&signature::ECDSA_P384_SHA256_ASN1, point),
            Key::EcP521(point) => (&signature::ECDSA_P521_SHA256_ASN1, point),
            Key::Other => return Err("unsupported public key type"),
        };
        let ecdsa = response.ecdsa_signature.ok_or("expecting ECDSA response")?;
        let message = self.signed(&ecdsa.nonce)?;
        verify_ecdsa(algorithm, point, &message, &ecdsa)
    }

    fn signed(&self, theirs: &Base64) -> Result<Vec<u8>, &'static str> {
        if theirs.0.len() != NONCE {
            return Err("invalid response nonce");
        }
        Ok([self.nonce.as_slice(), &theirs.0].concat())
    }
}

/// Accepts a PSS salt of any length. SPIRE's agents use the longest, most libraries the digest's; any other length costs
/// one verification per try, on a blocking thread.
async fn verify_rsa(
    spki: &[u8],
    bits: usize,
    message: &[u8],
    signature: &[u8],
) -> Result<(), &'static str> {
    const FAILED: &str = "RSA signature verify failed";

    let longest = (bits + 6) / 8;
    let longest = longest.checked_sub(DIGEST + 2).ok_or(FAILED)?;
    let longest = u16::try_from(longest).map_err(|_| FAILED)?;
    // Neither the length of a signature nor that of a key is secret.
    if signature.len() != bits.div_ceil(8) {
        return Err(FAILED);
    }
    let (spki, message, signature) = (spki.to_vec(), message.to_vec(), signature.to_vec());
    let verify = move |salt: RsaPssSaltLength| {
        RSA_PSS_2048_8192_SHA256
            .with_pss_salt_length(salt)
            .verify_sig(&spki, &message, &signature)
            .is_ok()
    };
    if verify(RsaPssSaltLength::Max) || verify(RsaPssSaltLength::Digest) {
        return Ok(());
    }
    let any = move || (0..longest).any(|salt| verify(RsaPssSaltLength::Custom(salt)));
    match tokio::task::spawn_blocking(any).await {
        Ok(true) => Ok(()),
        _ => Err(FAILED),
    }
}

fn verify_ecdsa(
    algorithm: &EcdsaVerificationAlgorithm,
    point: &[u8],
    message: &[u8],
    ecdsa: &EcdsaSignature,
) -> Result<(), &'static str> {
    const FAILED: &str = "ECDSA signature verify failed";

    let numbers = [integer(&ecdsa.r.0), integer(&ecdsa.s.0)];
    let [Some(r), Some(s)] = numbers else {
        return Err(FAILED);
    };
    let signature = der(0x30, &[r, s].concat());
    let verified = algorithm.verify_sig(point, message, &signature);
    verified.map_err(|_| FAILED)
}

/// A positive integer in DER, of a big-endian number with or without zeros before it.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = number.get(zeros..)?;
    let first = digits.first()?;
    if digits.len() > MAX_SCALAR {
        return None;
    }
    let sign: &[u8] = if *first >= 0x80 { &[0] } else { &[] };
    Some(der(0x02, &[sign, digits].concat()))
}

/// At most 255 bytes with their tag and length.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![tag];
    if length >= 0x80 {
        bytes.push(0x81);
    }
    bytes.push(length);
    bytes.extend_from_slice(content);
    bytes
}
