//! Signature algorithms of JWS (RFC 7518, 3.1), and which kind of key each one belongs to.

use std::fmt;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::der_parser::oid;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::KeyType;
use crate::key::ecdsa_fixed;

/// An algorithm that the JWT-SVID standard allows (section 2.1): signatures with asymmetric keys only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// RSA, PKCS#1 v1.5, SHA-384.
    Rs384,
    /// RSA, PKCS#1 v1.5, SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSA-PSS, SHA-256.
    Ps256,
    /// RSA-PSS, SHA-384.
    Ps384,
    /// RSA-PSS, SHA-512.
    Ps512,
}

impl Algorithm {
    const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The name in a header's `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The algorithm of this name; none for `none`, for those with shared secrets and for unknown ones.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == name)
    }

    /// What a key of this type signs with: RSA keys always with RS256.
    #[must_use]
    pub(crate) const fn of_key(key_type: KeyType) -> Self {
        match key_type {
            KeyType::EcP256 => Self::Es256,
            KeyType::EcP384 => Self::Es384,
            KeyType::Rsa2048 | KeyType::Rsa4096 => Self::Rs256,
        }
    }

    /// The signature of JWS from the one that a [`crate::SigningKey`] makes: ECDSA's two numbers leave ASN.1 and take
    /// their fixed width (RFC 7518, 3.4). None if it is not one.
    pub(super) fn to_jws(self, signature: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Es256 => ecdsa_fixed(&signature, 32),
            Self::Es384 => ecdsa_fixed(&signature, 48),
            Self::Es512 => ecdsa_fixed(&signature, 66),
            _ => Some(signature),
        }
    }

    /// Whether the key with this SubjectPublicKeyInfo made the signature. A key of another kind than the algorithm's
    /// never did.
    pub(super) fn verify(self, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Some(key) = self.public_key(spki) else {
            return false;
        };
        UnparsedPublicKey::new(self.verifier(), key)
            .verify(message, signature)
            .is_ok()
    }

    /// The bits of a public key of the algorithm's kind.
    fn public_key(self, spki: &[u8]) -> Option<Vec<u8>> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(spki).ok()?;
        let parameters = spki.algorithm.parameters.as_ref();
        let curve = || parameters.and_then(|p| p.as_oid().ok());
        let algorithm = &spki.algorithm.algorithm;
        let is_ec = *algorithm == oid!(1.2.840.10045.2.1);
        let fits = match self {
            Self::Es256 => is_ec && curve() == Some(oid!(1.2.840.10045.3.1.7)),
            Self::Es384 => is_ec && curve() == Some(oid!(1.3.132.0.34)),
            Self::Es512 => is_ec && curve() == Some(oid!(1.3.132.0.35)),
            _ => *algorithm == oid!(1.2.840.113549.1.1.1),
        };
        (fits && rest.is_empty()).then(|| spki.subject_public_key.data.to_vec())
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_not() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.as_str()), Some(algorithm));
        }
        for name in ["none", "HS256", "EdDSA", "es256", ""] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
    }
}
