//! Checks of an X.509 authority that an upstream signed for this server, before anything is signed with it.
//!
//! A chain that peers would refuse is refused here, not by every workload at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::bundle::X509Authority;
use crate::issue::{IssueError, IssuingCa, SvidTemplate};
use crate::key::SigningKey;
use crate::public_key::PublicKey;
use crate::svid::is_signing_ca;
use crate::verify::{MAX_CHAIN_LEN, PeerError, uri_names, verify_svid};
use crate::{Bundle, SpiffeId, TrustDomain, UnixTime};

/// The path of the trial SVID that is signed, verified and discarded.
const THROWAWAY_PATH: &str = "/spire/throwaway";
const THROWAWAY_TTL: Duration = Duration::from_secs(60);

/// Why an authority that was signed for this server can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIssuedCa {
    /// There is no certificate.
    #[error("there is no certificate in the answer")]
    Empty,
    /// With a leaf it would be longer than peers accept.
    #[error("the chain is longer than {} certificates", MAX_CHAIN_LEN - 1)]
    TooLong,
    /// The certificate can't be read.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// Its key usage lacks `keyCertSign`.
    #[error("the certificate's key usage lacks keyCertSign")]
    CannotSign,
    /// Its key usage has more than an authority needs.
    #[error("the certificate has key usages beside keyCertSign, cRLSign and digitalSignature")]
    Usage,
    /// A certificate of the chain is not a CA with `keyCertSign`, or is larger than peers accept.
    #[error("the chain has a certificate that is none of a certificate authority with keyCertSign")]
    Above,
    /// Its URI SAN is not the ID of the trust domain.
    #[error("the certificate's URI SAN is {actual:?}, not {expected}")]
    Id {
        /// What should be there, if anything is.
        expected: SpiffeId,
        /// What is there.
        actual: Vec<String>,
    },
    /// It is not valid yet.
    #[error("the certificate is valid from {not_before} and it is {now} here: is the clock right?")]
    NotYetValid {
        /// From when it is valid.
        not_before: UnixTime,
        /// What the clock says.
        now: UnixTime,
    },
    /// It is not for the key of the CSR, or can't sign.
    #[error("the certificate can't be signed with")]
    Issue(#[from] IssueError),
    /// What it signs does not verify against the roots. Tainted roots don't count, since everything that they signed
    /// must be replaced.
    #[error("what it signs does not lead to an untainted root of the trust domain")]
    Unanchored(#[from] PeerError),
}

/// Checks a chain signed for this key, and makes it ready to sign.
///
/// # Errors
/// The first rule that the chain breaks.
pub fn authority(
    trust_domain: &TrustDomain,
    chain: &[CertificateDer<'static>],
    roots: &[X509Authority],
    key: Arc<dyn SigningKey>,
    now: UnixTime,
) -> Result<IssuingCa, InvalidIssuedCa> {
    let own = chain.first().ok_or(InvalidIssuedCa::Empty)?;
    if chain.len() >= MAX_CHAIN_LEN {
        return Err(InvalidIssuedCa::TooLong);
    }
    check_form(trust_domain, own, now)?;
    // Peers check every certificate of a chain, even those that are not part of the path.
    if !chain.iter().all(is_signing_ca) {
        return Err(InvalidIssuedCa::Above);
    }
    let ca = IssuingCa::new(own.clone(), chain.to_vec(), key)?;
    anchored(trust_domain, &ca, roots, now)?;
    Ok(ca)
}

/// Checks that peers with these roots accept what this authority signs. Tainted roots don't count.
///
/// # Errors
/// Why peers would refuse it.
pub fn anchored(
    trust_domain: &TrustDomain,
    ca: &IssuingCa,
    roots: &[X509Authority],
    now: UnixTime,
) -> Result<(), InvalidIssuedCa> {
    let id = trust_domain
        .id_with_path(THROWAWAY_PATH)
        .map_err(malformed)?;
    let template = SvidTemplate {
        id: &id,
        dns_names: &[],
        ttl: THROWAWAY_TTL,
    };
    // The certificate is discarded, so its key may be the authority's own.
    let key = public_key(ca.authority().der())?;
    let issued = ca.issue(&template, &key, now)?;
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities = roots.iter().filter(|r| !r.is_tainted()).cloned().collect();
    let (leaf, above) = issued.chain.split_first().ok_or(InvalidIssuedCa::Empty)?;
    verify_svid(leaf, above, &bundle, now)?;
    Ok(())
}

fn public_key(der: &CertificateDer<'_>) -> Result<PublicKey, InvalidIssuedCa> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    PublicKey::from_spki(certificate.public_key().raw).map_err(malformed)
}

/// Checks the certificate's own fields. [`IssuingCa::new`] checks that it is a CA certificate.
fn check_form(
    trust_domain: &TrustDomain,
    der: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), InvalidIssuedCa> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    let usage = certificate
        .key_usage()
        .map_err(malformed)?
        .ok_or(InvalidIssuedCa::CannotSign)?
        .value;
    if !usage.key_cert_sign() {
        return Err(InvalidIssuedCa::CannotSign);
    }
    if usage.non_repudiation()
        || usage.key_encipherment()
        || usage.data_encipherment()
        || usage.key_agreement()
        || usage.encipher_only()
        || usage.decipher_only()
    {
        return Err(InvalidIssuedCa::Usage);
    }
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let names = names.map_or(&[][..], |san| &san.value.general_names);
    let uris: Vec<&str> = uri_names(names).collect();
    let expected = trust_domain.id();
    if !uris.is_empty() && uris != [expected.as_str()] {
        let actual = uris.into_iter().map(str::to_owned).collect();
        return Err(InvalidIssuedCa::Id { expected, actual });
    }
    let not_before = UnixTime::from_i64(certificate.validity().not_before.timestamp());
    if now < not_before {
        return Err(InvalidIssuedCa::NotYetValid { not_before, now });
    }
    Ok(())
}

fn malformed(error: impl fmt::Display) -> InvalidIssuedCa {
    InvalidIssuedCa::Malformed(error.to_string())
}

#[cfg(test)]
mod tests;
