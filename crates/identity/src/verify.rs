//! The one verifier of X.509-SVIDs.
//!
//! Path building and signatures are webpki's. What it leaves out and SPIFFE asks for is added here: exactly one URI SAN
//! that is a SPIFFE ID with a path, the bundle of that ID's own trust domain, no expired authority, keyCertSign on
//! every intermediate, the path length of the authority (X509-SVID standard, sections 4 and 5; RFC 5280, 6.1).

mod path;

use std::ops::Deref;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::bundle::{Bundles, X509Authority};
use crate::spiffe_id::InvalidId;
use crate::{Bundle, KeyId, SpiffeId, TrustDomain, UnixTime};

pub use path::{NoPath, paths};
use path::{check_path, search_paths};

/// The largest certificate that is looked at, in bytes of DER.
pub const MAX_CERTIFICATE_LEN: usize = 16 * 1024;
/// The longest serial number, in bytes (RFC 5280, 4.1.2.2), and the zero byte that keeps it positive.
const MAX_SERIAL_LEN: usize = 21;
/// How many certificates a chain may have, the leaf included.
pub const MAX_CHAIN_LEN: usize = 9;

/// Why a certificate is not an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSvid {
    /// Larger than [`MAX_CERTIFICATE_LEN`].
    #[error("certificate is larger than {MAX_CERTIFICATE_LEN} bytes")]
    TooLarge,
    /// Not exactly one X.509 certificate in DER.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// There is no URI SAN, or more than one.
    #[error("certificate must have exactly one URI SAN, not {0}")]
    UriSans(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("certificate's URI SAN is not a SPIFFE ID: {0}")]
    Id(#[from] InvalidId),
    /// The SPIFFE ID has no path, so it names a trust domain and no workload.
    #[error("certificate's SPIFFE ID {0} has no path")]
    NoPath(SpiffeId),
    /// The certificate may sign others.
    #[error("certificate is one of a certificate authority")]
    IsCa,
    /// Key usage is missing, lacks digitalSignature, or has keyCertSign or cRLSign.
    #[error(
        "certificate's key usage must have digitalSignature, and neither keyCertSign nor cRLSign"
    )]
    KeyUsage,
}

/// Why a peer's certificate chain was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No certificate was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More than [`MAX_CHAIN_LEN`] certificates were presented.
    #[error("more than {MAX_CHAIN_LEN} certificates were presented")]
    TooLong,
    /// The leaf is not an X.509-SVID.
    #[error(transparent)]
    Svid(#[from] InvalidSvid),
    /// There is no bundle of the peer's trust domain.
    #[error("there is no trust bundle of trust domain {0}")]
    NoBundle(TrustDomain),
    /// The leaf is not valid yet.
    #[error(
        "the certificate of {id} is valid from {not_before} and it is {now} here: is the clock right?"
    )]
    NotYetValid {
        /// Whose certificate it is.
        id: SpiffeId,
        /// From when it is valid.
        not_before: UnixTime,
        /// What the verifier's clock says.
        now: UnixTime,
    },
    /// The leaf has expired.
    #[error("the certificate of {id} expired at {not_after} and it is {now} here")]
    Expired {
        /// Whose certificate it is.
        id: SpiffeId,
        /// Until when it was valid.
        not_after: UnixTime,
        /// What the verifier's clock says.
        now: UnixTime,
    },
    /// No authority of the trust domain's bundle vouches for the certificate.
    #[error("the certificate of {id} is not signed by an authority of the trust bundle ({reason})")]
    UnknownAuthority {
        /// Whose certificate it claims to be.
        id: SpiffeId,
        /// What path building said.
        reason: String,
    },
    /// The peer has a verified ID, but not one that was expected.
    #[error("expected {expected}, but the peer is {actual}")]
    WrongId {
        /// Who may be there.
        expected: String,
        /// Who is.
        actual: SpiffeId,
    },
}

/// What stands in an X.509-SVID's leaf certificate: well formed, but not verified. See [`VerifiedLeaf`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The SPIFFE ID; it has a path.
    pub id: SpiffeId,
    /// The ID of the public key.
    pub kid: KeyId,
    /// The public key: SubjectPublicKeyInfo in DER, as it stands in the certificate.
    pub spki: Vec<u8>,
    /// From when it is valid.
    pub not_before: UnixTime,
    /// Until when it is valid, that second included.
    pub not_after: UnixTime,
    /// The serial number, in decimal.
    pub serial: String,
}

impl Leaf {
    /// Reads a leaf and checks what the X509-SVID standard asks of it alone.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(der: &[u8]) -> Result<Self, InvalidSvid> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(InvalidSvid::TooLarge);
        }
        let (rest, cert) =
            X509Certificate::from_der(der).map_err(|e| InvalidSvid::Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(InvalidSvid::Malformed("bytes after the certificate".into()));
        }
        // Turning it into decimal takes time by the square of its length.
        if cert.raw_serial().len() > MAX_SERIAL_LEN {
            return Err(InvalidSvid::Malformed("serial number is too long".into()));
        }
        let id = SpiffeId::parse(single_uri(&cert)?)?;
        if id.path().is_empty() {
            return Err(InvalidSvid::NoPath(id));
        }
        check_leaf_usage(&cert)?;
        let spki = cert.public_key().raw.to_vec();
        Ok(Self {
            id,
            kid: KeyId::of_spki(&spki),
            spki,
            not_before: UnixTime::from_i64(cert.validity().not_before.timestamp()),
            not_after: UnixTime::from_i64(cert.validity().not_after.timestamp()),
            serial: cert.tbs_certificate.serial.to_string(),
        })
    }
}

/// A leaf whose chain led to an authority in the bundle of its own trust domain, at the time of the verification. Only
/// the verifiers of this crate make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLeaf(Leaf);

impl VerifiedLeaf {
    /// For a leaf that the verifier of a TLS configuration has accepted.
    #[cfg(feature = "rustls")]
    pub(crate) const fn of_handshake(leaf: Leaf) -> Self {
        Self(leaf)
    }

    /// The leaf alone, for callers that keep no proof.
    #[must_use]
    pub fn into_leaf(self) -> Leaf {
        self.0
    }
}

impl Deref for VerifiedLeaf {
    type Target = Leaf;

    fn deref(&self) -> &Leaf {
        &self.0
    }
}

fn single_uri<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a str, InvalidSvid> {
    let san = cert
        .subject_alternative_name()
        .map_err(|e| InvalidSvid::Malformed(e.to_string()))?
        .ok_or(InvalidSvid::UriSans(0))?;
    let mut uris = uri_names(&san.value.general_names);
    let first = uris.next().ok_or(InvalidSvid::UriSans(0))?;
    match uris.count() {
        0 => Ok(first),
        more => Err(InvalidSvid::UriSans(more + 1)),
    }
}

/// The URIs among subject alternative names.
pub(crate) fn uri_names<'a>(names: &[GeneralName<'a>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

fn check_leaf_usage(cert: &X509Certificate<'_>) -> Result<(), InvalidSvid> {
    let malformed = |e: x509_parser::error::X509Error| InvalidSvid::Malformed(e.to_string());
    if cert
        .basic_constraints()
        .map_err(malformed)?
        .is_some_and(|c| c.value.ca)
    {
        return Err(InvalidSvid::IsCa);
    }
    let usage = cert
        .key_usage()
        .map_err(malformed)?
        .ok_or(InvalidSvid::KeyUsage)?
        .value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(InvalidSvid::KeyUsage);
    }
    Ok(())
}

/// Verifies a peer's chain, leaf first, against the bundle of the leaf's own trust domain.
///
/// # Errors
/// Why the peer is not who the leaf says.
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    bundles: &dyn Bundles,
    now: UnixTime,
) -> Result<VerifiedLeaf, PeerError> {
    let (leaf_der, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    if chain.len() > MAX_CHAIN_LEN {
        return Err(PeerError::TooLong);
    }
    let leaf = Leaf::parse(leaf_der)?;
    let bundle = bundles
        .bundle_of(&leaf.id)
        .ok_or_else(|| PeerError::NoBundle(leaf.id.trust_domain()))?;
    verify_leaf(&leaf, leaf_der, intermediates, &bundle, now)?;
    Ok(VerifiedLeaf(leaf))
}

/// Verifies a leaf that was valid at some moment, against one bundle, which must be that of the leaf's trust domain.
///
/// # Errors
/// Why the certificate was not a valid X.509-SVID at that moment.
pub fn verify_svid(
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    at: UnixTime,
) -> Result<VerifiedLeaf, PeerError> {
    let leaf = Leaf::parse(leaf_der)?;
    verify_leaf(&leaf, leaf_der, intermediates, bundle, at)?;
    Ok(VerifiedLeaf(leaf))
}

fn verify_leaf(
    leaf: &Leaf,
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: UnixTime,
) -> Result<(), PeerError> {
    let id = &leaf.id;
    if !id.is_member_of(&bundle.trust_domain) {
        return Err(PeerError::NoBundle(id.trust_domain()));
    }
    if now < leaf.not_before {
        return Err(PeerError::NotYetValid {
            id: id.clone(),
            not_before: leaf.not_before,
            now,
        });
    }
    if now > leaf.not_after {
        return Err(PeerError::Expired {
            id: id.clone(),
            not_after: leaf.not_after,
            now,
        });
    }
    let unknown = |reason: String| PeerError::UnknownAuthority {
        id: id.clone(),
        reason,
    };
    let authorities: Vec<&X509Authority> = bundle
        .x509_authorities
        .iter()
        .filter(|a| a.can_sign_at(now))
        .collect();
    search_paths(leaf_der, intermediates, &authorities, now, &|path| {
        check_path(path, &authorities)
    })
    .map_err(|e| unknown(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf_with_serial(serial: &[u8]) -> Result<Leaf, InvalidSvid> {
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(serial.to_vec().into());
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://td/a".try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        Leaf::parse(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn a_serial_number_that_takes_long_to_write_down_is_refused() {
        let longest = leaf_with_serial(&[0xff; 20]).unwrap();
        assert_eq!(longest.serial.len(), 49);
        let refused = leaf_with_serial(&[0x7f; 22]).unwrap_err();
        assert!(matches!(refused, InvalidSvid::Malformed(_)), "{refused}");
    }
}
