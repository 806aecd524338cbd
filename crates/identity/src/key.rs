//! Keys: private ones that sign, and the IDs of public ones.

use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
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

    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096]
            .into_iter()
            .find(|t| t.as_str() == name)
    }

    pub(crate) const fn algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa2048 | Self::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
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
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    pair: KeyPair,
    key_type: KeyType,
    spki: Vec<u8>,
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the cryptographic library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let pair = match key_type {
            KeyType::Rsa2048 => {
                KeyPair::generate_rsa_for(key_type.algorithm(), rcgen::RsaKeySize::_2048)
            }
            KeyType::Rsa4096 => {
                KeyPair::generate_rsa_for(key_type.algorithm(), rcgen::RsaKeySize::_4096)
            }
            KeyType::EcP256 | KeyType::EcP384 => KeyPair::generate_for(key_type.algorithm()),
        }
        .map_err(|_| KeyError::Generate(key_type))?;
        Ok(Self::from_pair(pair, key_type))
    }

    /// Reads a PKCS#8 key in DER.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for anything but the types of [`KeyType`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from(der);
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let Ok(pair) = KeyPair::from_pkcs8_der_and_sign_algo(&der, key_type.algorithm()) else {
                continue;
            };
            let spki = pair.subject_public_key_info();
            let key_type = match key_type {
                KeyType::Rsa2048 => rsa_type(&spki).ok_or(KeyError::Unsupported)?,
                other => other,
            };
            return Ok(Self::from_pair(pair, key_type));
        }
        Err(KeyError::Unsupported)
    }

    /// The key as PKCS#8 in DER, unencrypted.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.pair.serialize_der())
    }

    fn from_pair(pair: KeyPair, key_type: KeyType) -> Self {
        let spki = pair.subject_public_key_info();
        Self(Arc::new(Inner {
            pair,
            key_type,
            spki,
        }))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0.pair
    }
}

impl SigningKey for PrivateKey {
    fn key_type(&self) -> KeyType {
        self.0.key_type
    }

    fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        rcgen::SigningKey::sign(&self.0.pair, message).map_err(|e| KeyError::Sign(e.to_string()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.0.key_type)
    }
}

fn rsa_type(spki: &[u8]) -> Option<KeyType> {
    use x509_parser::prelude::FromDer as _;
    use x509_parser::public_key::PublicKey;

    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    match spki.parsed().ok()? {
        PublicKey::RSA(key) => match key.key_size() {
            2048 => Some(KeyType::Rsa2048),
            4096 => Some(KeyType::Rsa4096),
            _ => None,
        },
        _ => None,
    }
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
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(
            PrivateKey::from_pkcs8(&ed25519.serialize_der()).unwrap_err(),
            KeyError::Unsupported
        );
    }
}
