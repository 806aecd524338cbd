//! X.509-SVIDs: a certificate chain with its private key.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::key::{KeyError, PrivateKey, SigningKey as _};
use crate::verify::{InvalidSvid, Leaf, MAX_CERTIFICATE_LEN, MAX_CHAIN_LEN};
use crate::{KeyId, SpiffeId, UnixTime};

/// Why a chain and a key are not an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// There is no certificate.
    #[error("certificate chain is empty")]
    Empty,
    /// More than [`MAX_CHAIN_LEN`] certificates.
    #[error("certificate chain is longer than {MAX_CHAIN_LEN}")]
    TooLong,
    /// The leaf breaks the standard.
    #[error("leaf: {0}")]
    Leaf(#[from] InvalidSvid),
    /// A certificate of the chain, other than the leaf, is not one of a certificate authority.
    #[error("intermediate {0}: not a certificate authority with keyCertSign")]
    Intermediate(usize),
    /// The bytes are not certificates in DER, one after the other.
    #[error("malformed certificate chain")]
    Malformed,
    /// The private key cannot be used.
    #[error("private key: {0}")]
    Key(#[from] KeyError),
    /// The key is not the leaf's.
    #[error("private key does not belong to the leaf")]
    KeyMismatch,
}

/// An X.509-SVID with its private key, consistent in itself. Not verified against a bundle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct X509Svid(Arc<SvidParts>);

#[derive(Debug)]
struct SvidParts {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
}

impl X509Svid {
    /// Puts chain (leaf first) and key together.
    ///
    /// # Errors
    /// The first rule of the X509-SVID standard that they break (sections 2 to 4), or a key that is not the leaf's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, SvidError> {
        let (first, rest) = chain.split_first().ok_or(SvidError::Empty)?;
        if chain.len() > MAX_CHAIN_LEN {
            return Err(SvidError::TooLong);
        }
        let leaf = Leaf::parse(first)?;
        for (i, der) in rest.iter().enumerate() {
            if !is_signing_ca(der) {
                return Err(SvidError::Intermediate(i + 1));
            }
        }
        if leaf.spki != key.spki() {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self(Arc::new(SvidParts { leaf, chain, key })))
    }

    /// Reads the form of the Workload API: certificates in DER one after the other, and a PKCS#8 key.
    ///
    /// # Errors
    /// As [`X509Svid::new`].
    pub fn from_der(chain: &[u8], pkcs8: &[u8]) -> Result<Self, SvidError> {
        Self::new(split_der(chain)?, PrivateKey::from_pkcs8(pkcs8)?)
    }

    /// What stands in the leaf.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.0.leaf
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.leaf.id
    }

    /// The ID of the key.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.0.leaf.kid
    }

    /// From when it is valid.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.0.leaf.not_before
    }

    /// Until when it is valid.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.0.leaf.not_after
    }

    /// The leaf, then the intermediates.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// The chain as one piece of DER, as the Workload API sends it.
    #[must_use]
    pub fn chain_der(&self) -> Vec<u8> {
        self.0
            .chain
            .iter()
            .flat_map(|c| c.as_ref().iter().copied())
            .collect()
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }
}

/// Splits certificates in DER that stand one after the other; at most [`MAX_CHAIN_LEN`] of them.
///
/// # Errors
/// Bytes that are not certificates, or too many of them.
pub fn split_der(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        if certificates.len() == MAX_CHAIN_LEN {
            return Err(SvidError::TooLong);
        }
        let (rest, cert) = X509Certificate::from_der(bytes).map_err(|_| SvidError::Malformed)?;
        certificates.push(CertificateDer::from(cert.as_raw().to_vec()));
        bytes = rest;
    }
    Ok(certificates)
}

pub(crate) fn is_signing_ca(der: &CertificateDer<'_>) -> bool {
    if der.len() > MAX_CERTIFICATE_LEN {
        return false;
    }
    let Ok((rest, cert)) = X509Certificate::from_der(der) else {
        return false;
    };
    let ca = cert
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|c| c.value.ca);
    let signs = cert
        .key_usage()
        .ok()
        .flatten()
        .is_some_and(|u| u.value.key_cert_sign());
    rest.is_empty() && ca && signs
}
