//! Downstream authorities: their requests, and what the upstream authority signs.
//!
//! A server with an upstream authority requests its own with [`authority_request`]. It signs those of downstream
//! servers with [`IssuingCa::issue_authority`]; [`ParentCa`] is an authority of another PKI with its key in memory.

use std::fmt;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{
    BACKDATE, IssueError, IssuingCa, Serial, Subject, authority_name, distinguished_name, encode,
    issuer_params, may_sign, template,
};
use crate::bundle::{InvalidAuthority, X509Authority};
use crate::csr::Csr;
use crate::key::SigningKey;
use crate::public_key::{PublicKey, RcgenSigner};
use crate::subject::text;
use crate::{SignedSvid, TrustDomain, UnixTime};

/// Makes a CSR (PKCS #10 in DER) that asks an upstream authority to certify this key as an authority of the trust
/// domain. It has the trust domain's ID, and the subject with a unique serial number.
///
/// # Errors
/// The key does not sign, or the request cannot be written.
pub fn authority_request(
    trust_domain: &TrustDomain,
    subject: &Subject,
    key: &dyn SigningKey,
) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = authority_name(subject, &Serial::random()?);
    let uri = trust_domain.id().as_str().try_into().map_err(encode)?;
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let signer = RcgenSigner::new(key)?;
    let request = params.serialize_request(&signer).map_err(encode)?;
    Ok(request.der().to_vec())
}

impl IssuingCa {
    /// Signs an authority for a downstream server, with this authority's subject and the organizational unit
    /// `DOWNSTREAM-<length of the upstream chain>`. It expires no later than this authority.
    ///
    /// # Errors
    /// As [`IssuingCa::issue`].
    pub fn issue_authority(
        &self,
        trust_domain: &TrustDomain,
        public_key: &PublicKey,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<SignedSvid, IssueError> {
        let above = self.chain.len().max(1);
        let wanted = Wanted {
            trust_domain,
            name: downstream_name(&self.issuer.distinguished_name, above),
            public_key,
            ttl,
        };
        let signer = RcgenSigner::with_public(self.key.as_ref(), &self.public);
        let issuer = Issuer::from_params(&self.issuer, signer);
        let mut issued = wanted.signed_by(&issuer, &self.authority, now)?;
        issued.chain.extend(self.chain.iter().cloned());
        Ok(issued)
    }
}

/// In the order in which Go writes names: country, organization, unit, the rest.
fn downstream_name(issuer: &DistinguishedName, above: usize) -> DistinguishedName {
    let leads = |t: &DnType| matches!(t, DnType::CountryName | DnType::OrganizationName);
    let mut name = DistinguishedName::new();
    for (attribute, value) in issuer.iter().filter(|(t, _)| leads(t)) {
        name.push(attribute.clone(), value.clone());
    }
    let unit = text(&format!("DOWNSTREAM-{above}"));
    name.push(DnType::OrganizationalUnitName, unit);
    let rest = |t: &DnType| !leads(t) && *t != DnType::OrganizationalUnitName;
    for (attribute, value) in issuer.iter().filter(|(t, _)| rest(t)) {
        name.push(attribute.clone(), value.clone());
    }
    name
}

/// A certificate authority of another PKI, with its key in memory. Signs authorities of a trust domain downstream of
/// itself.
pub struct ParentCa {
    authority: X509Authority,
    issuer: CertificateParams,
    key: KeyPair,
}

impl ParentCa {
    /// Combines certificate and key. The key is EC (P-256, P-384, P-521) or RSA, as PKCS #8, SEC1 or PKCS #1.
    ///
    /// # Errors
    /// The certificate or the key is unusable, or they do not belong together.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, IssueError> {
        let key = KeyPair::try_from(key).map_err(|_| IssueError::ParentKey)?;
        if key.algorithm() == &rcgen::PKCS_ED25519 {
            return Err(IssueError::ParentKey);
        }
        let spki = key.subject_public_key_info();
        let public = PublicKey::from_spki(&spki).map_err(|_| IssueError::ParentKey)?;
        let authority = X509Authority::new(certificate)?;
        let issuer = {
            let (_, cert) = X509Certificate::from_der(authority.der())
                .map_err(|e| InvalidAuthority::Malformed(e.to_string()))?;
            if cert.public_key().raw != spki {
                return Err(IssueError::KeyMismatch);
            }
            issuer_params(&cert, &public)?
        };
        Ok(Self {
            authority,
            issuer,
            key,
        })
    }

    /// The authority's certificate.
    #[must_use]
    pub const fn authority(&self) -> &X509Authority {
        &self.authority
    }

    /// Signs the CSR of an [`authority_request`], with its subject. The certificate expires no later than this
    /// authority.
    ///
    /// # Errors
    /// The CSR is malformed or its signature is wrong, this authority has expired, or the certificate cannot be
    /// written.
    pub fn sign(
        &self,
        trust_domain: &TrustDomain,
        request: &[u8],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<SignedSvid, IssueError> {
        let csr = Csr::parse(request)?;
        csr.verify_signature()?;
        let wanted = Wanted {
            trust_domain,
            name: distinguished_name(csr.subject())?,
            public_key: csr.public_key(),
            ttl,
        };
        let issuer = Issuer::from_params(&self.issuer, &self.key);
        wanted.signed_by(&issuer, &self.authority, now)
    }
}

impl fmt::Debug for ParentCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParentCa")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// An authority of a trust domain that is to be made.
struct Wanted<'a> {
    trust_domain: &'a TrustDomain,
    name: DistinguishedName,
    public_key: &'a PublicKey,
    ttl: Duration,
}

impl Wanted<'_> {
    fn signed_by<S: rcgen::SigningKey>(
        self,
        issuer: &Issuer<'_, S>,
        above: &X509Authority,
        now: UnixTime,
    ) -> Result<SignedSvid, IssueError> {
        if now >= above.not_after() {
            return Err(IssueError::Expired(above.not_after()));
        }
        let serial = Serial::random()?;
        let not_before = now.before(BACKDATE);
        let not_after = now.after(self.ttl).min(above.not_after());
        let mut params = template(&self.trust_domain.id(), &serial, not_before, not_after)?;
        params.distinguished_name = self.name;
        params.use_authority_key_identifier_extension = true;
        may_sign(&mut params, self.public_key);
        let cert = params
            .signed_by(&self.public_key.parsed, issuer)
            .map_err(encode)?;
        Ok(SignedSvid {
            id: self.trust_domain.id(),
            chain: vec![cert.der().clone()],
            serial: serial.decimal(),
            expires_at: not_after,
        })
    }
}

#[cfg(test)]
mod tests;
