//! Keys: private ones that sign, and the IDs of public ones.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256,
};
use zeroize::Zeroizing;

/// The kinds of keys that SVIDs and authorities use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// ECDSA on P-256, signing with SHA-256.
    EcP256,
    /// ECDSA on P-384, signing with SHA-384.
    EcP384,
    /// RSA with 2,048 bits, PKCS#1 v1.5 with SHA-256.
    Rsa2048,
    /// RSA with 4,096 bits, PKCS#1 v1.5 with SHA-256.
    Rsa4096,
}

impl KeyType {
    /// The name that SPIRE's configuration uses, such as `ec-p256`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The ID of a public key: the SHA-256 of its SubjectPublicKeyInfo in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The ID of the key with this SubjectPublicKeyInfo, in DER.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki);
        Self(digest.as_ref().try_into().unwrap_or([0; 32]))
    }

    /// An ID that came over the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a key could not be made, read or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes are not a PKCS#8 private key of a supported type.
    #[error("not a PKCS#8 private key of type ec-p256, ec-p384, rsa-2048 or rsa-4096")]
    Unsupported,
    /// The key could not be generated.
    #[error("could not generate a key of type {0}")]
    Generate(KeyType),
    /// The key did not sign.
    #[error("could not sign: {0}")]
    Sign(String),
}

/// A private key, wherever it lives. Synchronous, and possibly slow: call it on a blocking thread.
pub trait SigningKey: Send + Sync + fmt::Debug {
    /// What kind of key this is.
    fn key_type(&self) -> KeyType;

    /// The public key, as SubjectPublicKeyInfo in DER.
    fn spki(&self) -> &[u8];

    /// Signs the message with the hash that belongs to the key type. ECDSA signatures are in ASN.1 DER.
    ///
    /// # Errors
    /// [`KeyError::Sign`] if the key or the device that holds it fails.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// The ID of the public key.
    fn kid(&self) -> KeyId {
        KeyId::of_spki(self.spki())
    }
}

/// A private key in memory. Cheap to clone; wiped when the last clone is dropped; prints its type only.
#[derive(Clone)]
pub struct PrivateKey(Arc<KeyMaterial>);

struct KeyMaterial {
    pair: Pair,
    key_type: KeyType,
    spki: Vec<u8>,
    pkcs8: Zeroizing<Vec<u8>>,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the cryptographic library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let generated = match key_type {
            KeyType::EcP256 => generate_ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcP384 => generate_ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::Rsa2048 => generate_rsa(rsa::KeySize::Rsa2048),
            KeyType::Rsa4096 => generate_rsa(rsa::KeySize::Rsa4096),
        };
        generated
            .and_then(|(pair, pkcs8)| Self::from_pair(pair, key_type, pkcs8))
            .map_err(|_| KeyError::Generate(key_type))
    }

    /// Reads a PKCS#8 key in DER.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for anything but the types of [`KeyType`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let ec = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).map(Pair::Ec);
        let (pair, key_type) = if let Ok(pair) = ec(&ECDSA_P256_SHA256_ASN1_SIGNING) {
            (pair, KeyType::EcP256)
        } else if let Ok(pair) = ec(&ECDSA_P384_SHA384_ASN1_SIGNING) {
            (pair, KeyType::EcP384)
        } else {
            let pair = rsa::KeyPair::from_pkcs8(der).map_err(|_| KeyError::Unsupported)?;
            let key_type = match pair.public_modulus_len() {
                256 => KeyType::Rsa2048,
                512 => KeyType::Rsa4096,
                _ => return Err(KeyError::Unsupported),
            };
            (Pair::Rsa(pair), key_type)
        };
        Self::from_pair(pair, key_type, Zeroizing::new(der.to_vec()))
            .map_err(|_| KeyError::Unsupported)
    }

    /// The key as PKCS#8 in DER, unencrypted.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.0.pkcs8.clone()
    }

    fn from_pair(
        pair: Pair,
        key_type: KeyType,
        pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<Self, Unspecified> {
        let spki: PublicKeyX509Der<'_> = match &pair {
            Pair::Ec(pair) => pair.public_key().as_der()?,
            Pair::Rsa(pair) => pair.public_key().as_der()?,
        };
        let spki = spki.as_ref().to_vec();
        Ok(Self(Arc::new(KeyMaterial {
            pair,
            key_type,
            spki,
            pkcs8,
        })))
    }
}

type Generated = Result<(Pair, Zeroizing<Vec<u8>>), Unspecified>;

fn generate_ec(algorithm: &'static EcdsaSigningAlgorithm) -> Generated {
    let pair = EcdsaKeyPair::generate(algorithm)?;
    let pkcs8 = Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec());
    Ok((Pair::Ec(pair), pkcs8))
}

fn generate_rsa(size: rsa::KeySize) -> Generated {
    let pair = rsa::KeyPair::generate(size)?;
    let pkcs8 = Zeroizing::new(pair.as_der()?.as_ref().to_vec());
    Ok((Pair::Rsa(pair), pkcs8))
}

impl SigningKey for PrivateKey {
    fn key_type(&self) -> KeyType {
        self.0.key_type
    }

    fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let signed = match &self.0.pair {
            Pair::Ec(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map(|()| signature)
            }
        };
        signed.map_err(|Unspecified| {
            KeyError::Sign("the cryptographic library gave no reason".into())
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.0.key_type)
    }
}

/// Turns an ECDSA signature in ASN.1 DER (RFC 3279, 2.2.3), as [`SigningKey::sign`] gives it, into r ‖ s of `width` bytes
/// each, as JWS and COSE write it. `None` if it is not two unsigned numbers of at most that width.
#[must_use]
pub fn ecdsa_fixed(der: &[u8], width: usize) -> Option<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let (body, rest) = der_value(der, SEQUENCE)?;
    let (r, after_r) = der_value(body, INTEGER)?;
    let (s, after_s) = der_value(after_r, INTEGER)?;
    if !rest.is_empty() || !after_s.is_empty() {
        return None;
    }
    let mut fixed = Vec::with_capacity(2 * width);
    for number in [r, s] {
        // DER drops leading zeros, and adds one in front of a set top bit, which would make the number negative.
        let zeros = number.iter().take_while(|b| **b == 0).count();
        let digits = number.get(zeros..)?;
        fixed.resize(fixed.len() + width.checked_sub(digits.len())?, 0);
        fixed.extend_from_slice(digits);
    }
    Some(fixed)
}

/// The content of a DER value with this tag, and what follows it. Lengths up to 255, which two P-521 scalars need.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (len, rest) = match bytes {
        [t, 0x81, len, rest @ ..] if *t == tag => (*len, rest),
        [t, len @ 0..=0x7f, rest @ ..] if *t == tag => (*len, rest),
        _ => return None,
    };
    rest.split_at_checked(usize::from(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_pkcs8_and_keep_their_type() {
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = PrivateKey::generate(key_type).unwrap();
            let again = PrivateKey::from_pkcs8(&key.to_pkcs8()).unwrap();
            assert_eq!(again.key_type(), key_type);
            assert_eq!(again.spki(), key.spki());
            assert_eq!(again.kid(), key.kid());
        }
    }

    #[test]
    fn debug_output_has_no_key_material() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ec-p256)");
    }

    #[test]
    fn garbage_and_other_types_are_refused() {
        assert_eq!(
            PrivateKey::from_pkcs8(b"x").unwrap_err(),
            KeyError::Unsupported
        );
        let random = SystemRandom::new();
        let ed25519 = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        assert_eq!(
            PrivateKey::from_pkcs8(ed25519.as_ref()).unwrap_err(),
            KeyError::Unsupported
        );
    }

    #[test]
    fn short_and_padded_numbers_take_their_width() {
        // r = 1, s = 0x80 with the zero byte that keeps it positive.
        let der = [0x30, 7, 2, 1, 1, 2, 2, 0, 0x80];
        let fixed = ecdsa_fixed(&der, 32).unwrap();
        assert_eq!((fixed.len(), fixed[31], fixed[63]), (64, 1, 0x80));
        assert_eq!(fixed.iter().filter(|b| **b != 0).count(), 2);
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for der in [
            &[][..],
            &[0x30, 0],
            &[0x30, 3, 2, 1, 1],
            &[0x30, 6, 2, 1, 1, 2, 1, 1, 0],
            &[0x30, 7, 2, 1, 1, 2, 2, 1, 1],
        ] {
            assert_eq!(ecdsa_fixed(der, 1), None, "{der:?}");
        }
    }
}
