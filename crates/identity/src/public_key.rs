//! Public keys that certificates are issued for, and how a [`SigningKey`] signs what rcgen writes.

use std::borrow::Cow;

use aws_lc_rs::digest;

use crate::key::{KeyError, KeyType, SigningKey};

/// A public key of a kind that certificates are not issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("public key must be EC P-256, EC P-384, EC P-521, Ed25519 or RSA")]
pub struct UnsupportedKey;

/// A public key that certificates can be issued for: EC on P-256, P-384 or P-521, Ed25519, or RSA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    pub(crate) parsed: rcgen::SubjectPublicKeyInfo,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER (RFC 5280, 4.1.2.7).
    ///
    /// # Errors
    /// The bytes are none, or of a key of another kind.
    pub fn from_spki(spki: &[u8]) -> Result<Self, UnsupportedKey> {
        let parsed = rcgen::SubjectPublicKeyInfo::from_der(spki).map_err(|_| UnsupportedKey)?;
        Ok(Self {
            spki: spki.to_vec(),
            parsed,
        })
    }

    /// The public half of a private key.
    ///
    /// # Errors
    /// Never for the types of [`KeyType`]; a key in a device may be of another kind.
    pub fn of(key: &dyn SigningKey) -> Result<Self, UnsupportedKey> {
        Self::from_spki(key.spki())
    }

    /// The SubjectPublicKeyInfo in DER, as it was read.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-1 of the subjectPublicKey bit string (RFC 5280, 4.2.1.2, method 1). An identifier: nothing rests on its
    /// strength.
    pub(crate) fn key_identifier(&self) -> Vec<u8> {
        let bits = rcgen::PublicKeyData::der_bytes(&self.parsed);
        digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bits)
            .as_ref()
            .to_vec()
    }
}

/// Lends a [`SigningKey`] to rcgen.
pub(crate) struct RcgenSigner<'a> {
    key: &'a dyn SigningKey,
    public: Cow<'a, PublicKey>,
}

impl<'a> RcgenSigner<'a> {
    pub(crate) fn new(key: &'a dyn SigningKey) -> Result<Self, KeyError> {
        let public = PublicKey::of(key).map_err(|UnsupportedKey| KeyError::Unsupported)?;
        let public = Cow::Owned(public);
        Ok(Self { key, public })
    }

    /// With the key's public half, which the caller has read already.
    pub(crate) const fn with_public(key: &'a dyn SigningKey, public: &'a PublicKey) -> Self {
        let public = Cow::Borrowed(public);
        Self { key, public }
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl rcgen::PublicKeyData for RcgenSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        rcgen::PublicKeyData::der_bytes(&self.public.parsed)
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.key.key_type() {
            KeyType::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::Rsa2048 | KeyType::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl rcgen::SigningKey for RcgenSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        // rcgen's error carries no text; the caller says which key it was.
        self.key
            .sign(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
