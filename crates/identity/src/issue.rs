//! Certificate templates: self-signed authorities and the X.509-SVIDs that they sign.
//!
//! Exact to the extension as SPIRE issues them: serial of 1 to 2^128 − 1, valid from 10 s before now, one URI SAN,
//! critical basic constraints and key usage, both TLS purposes on SVIDs, key identifiers by SHA-1 (RFC 5280, 4.2.1.2).

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::FromDer as _;

use crate::bundle::{InvalidAuthority, X509Authority};
use crate::csr::InvalidCsr;
use crate::entry::DnsName;
use crate::key::{KeyError, SigningKey};
use crate::public_key::{PublicKey, RcgenSigner};
use crate::{SignedSvid, SpiffeId, TrustDomain, UnixTime};

mod authority;

pub use crate::subject::Subject;
pub use authority::{ParentCa, authority_request};

/// How far before now a certificate's validity begins, so that peers whose clocks are behind accept it.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// Why a certificate could not be issued.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The authority's own certificate cannot be used.
    #[error("authority's certificate: {0}")]
    Authority(#[from] InvalidAuthority),
    /// The key of an authority of another PKI can't be read.
    #[error("not a private key of type EC (P-256, P-384, P-521) or RSA")]
    ParentKey,
    /// The authority's certificate and key do not belong together.
    #[error("authority's certificate is not for its key")]
    KeyMismatch,
    /// A subject that can't be copied byte for byte as the issuer of new certificates, which would break the chain.
    #[error("a subject with several attributes of one type is not supported")]
    Subject,
    /// The request for an authority can't be used.
    #[error("request for an authority: {0}")]
    Request(#[from] InvalidCsr),
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate could not be written.
    #[error("could not write the certificate: {0}")]
    Encode(String),
    /// The authority has expired, so nothing that it signs would be valid.
    #[error("authority expired at {0}")]
    Expired(UnixTime),
}

/// What to put into an X.509-SVID.
#[derive(Clone, Copy, Debug)]
pub struct SvidTemplate<'a> {
    /// The SPIFFE ID.
    pub id: &'a SpiffeId,
    /// DNS names in order; the first is also the common name.
    pub dns_names: &'a [DnsName],
    /// Lifetime from now, in whole seconds; cut at the authority's own end.
    pub ttl: Duration,
}

/// Makes a self-signed authority of a trust domain.
///
/// # Errors
/// The key does not sign, or the certificate cannot be written.
pub fn self_signed_authority(
    trust_domain: &TrustDomain,
    subject: &Subject,
    key: &dyn SigningKey,
    ttl: Duration,
    now: UnixTime,
) -> Result<CertificateDer<'static>, IssueError> {
    let signer = RcgenSigner::new(key)?;
    let serial = Serial::random()?;
    let name = authority_name(subject, &serial);
    let mut params = template(
        &trust_domain.id(),
        &serial,
        now.before(BACKDATE),
        now.after(ttl),
    )?;
    params.distinguished_name = name;
    may_sign(&mut params, signer.public());
    let cert = params.self_signed(&signer).map_err(encode)?;
    Ok(cert.der().clone())
}

/// Peers may pick an issuer by its subject alone, so each authority has its own.
fn authority_name(subject: &Subject, serial: &Serial) -> DistinguishedName {
    let mut subject = subject.clone();
    if subject.serial_number.is_empty() {
        subject.serial_number = serial.decimal();
    }
    subject.to_rcgen()
}

/// What the certificates of all authorities have in common.
fn may_sign(params: &mut CertificateParams, public: &PublicKey) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(public.key_identifier());
}

/// An authority that signs X.509-SVIDs: its certificate, its upstream chain, and its key.
pub struct IssuingCa {
    authority: X509Authority,
    root_id: String,
    chain: Vec<CertificateDer<'static>>,
    issuer: CertificateParams,
    key: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl std::fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingCa")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl IssuingCa {
    /// An authority ready to sign. `chain` follows the leaf in SVIDs: empty for a self-signed authority, else the
    /// authority's own certificate and its issuers without the root.
    ///
    /// # Errors
    /// The certificate is unusable, or not for this key.
    pub fn new(
        certificate: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, IssueError> {
        let authority = X509Authority::new(certificate)?;
        let malformed = |e: String| IssueError::Authority(InvalidAuthority::Malformed(e));
        let public = PublicKey::of(key.as_ref()).map_err(|_| KeyError::Unsupported)?;
        let issuer = {
            let (_, cert) = x509_parser::certificate::X509Certificate::from_der(authority.der())
                .map_err(|e| malformed(e.to_string()))?;
            if cert.public_key().raw != key.spki() {
                return Err(IssueError::KeyMismatch);
            }
            issuer_params(&cert, &public)?
        };
        let root_id = match chain.last() {
            None => authority.authority_id().to_owned(),
            Some(topmost) => X509Authority::new(topmost.clone())?.issuer_id().to_owned(),
        };
        Ok(Self {
            authority,
            root_id,
            chain,
            issuer,
            key,
            public,
        })
    }

    /// The authority as it appears in bundles.
    #[must_use]
    pub const fn authority(&self) -> &X509Authority {
        &self.authority
    }

    /// The ID of the root to which its SVIDs lead; empty if the certificates have no key identifiers.
    #[must_use]
    pub fn root_id(&self) -> &str {
        &self.root_id
    }

    /// Signs an X.509-SVID for this public key, with the subject of SVIDs.
    ///
    /// # Errors
    /// The authority has expired, the key does not sign, or the certificate cannot be written.
    pub fn issue(
        &self,
        template: &SvidTemplate<'_>,
        public_key: &PublicKey,
        now: UnixTime,
    ) -> Result<SignedSvid, IssueError> {
        self.issue_named(template, Subject::svid(), public_key, now)
    }

    /// Signs an X.509-SVID with another subject. The first DNS name is still the common name.
    ///
    /// # Errors
    /// As [`IssuingCa::issue`].
    pub fn issue_named(
        &self,
        template: &SvidTemplate<'_>,
        subject: Subject,
        public_key: &PublicKey,
        now: UnixTime,
    ) -> Result<SignedSvid, IssueError> {
        if now >= self.authority.not_after() {
            return Err(IssueError::Expired(self.authority.not_after()));
        }
        let serial = Serial::random()?;
        let not_before = now.before(BACKDATE);
        let not_after = now.after(template.ttl).min(self.authority.not_after());
        let mut params = svid_params(template, public_key, &serial, not_before, not_after)?;
        params.distinguished_name = svid_subject(template, subject).to_rcgen();
        let signer = RcgenSigner::with_public(self.key.as_ref(), &self.public);
        let issuer = Issuer::from_params(&self.issuer, signer);
        let cert = params
            .signed_by(&public_key.parsed, &issuer)
            .map_err(encode)?;
        let mut chain = Vec::with_capacity(1 + self.chain.len());
        chain.push(cert.der().clone());
        chain.extend(self.chain.iter().cloned());
        Ok(SignedSvid {
            id: template.id.clone(),
            chain,
            serial: serial.decimal(),
            expires_at: not_after,
        })
    }
}

fn svid_subject(svid: &SvidTemplate<'_>, mut subject: Subject) -> Subject {
    if let Some(first) = svid.dns_names.first() {
        first.as_str().clone_into(&mut subject.common_name);
    }
    subject
}

fn svid_params(
    svid: &SvidTemplate<'_>,
    public_key: &PublicKey,
    serial: &Serial,
    not_before: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, IssueError> {
    let mut params = template(svid.id, serial, not_before, not_after)?;
    for name in svid.dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.as_str().try_into().map_err(encode)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(public_key.key_identifier());
    Ok(params)
}

fn template(
    id: &SpiffeId,
    serial: &Serial,
    not_before: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(encode)?)];
    Ok(params)
}

/// An issuer for rcgen: its name, byte for byte, and its key identifier.
fn issuer_params(
    cert: &x509_parser::certificate::X509Certificate<'_>,
    public: &PublicKey,
) -> Result<CertificateParams, IssueError> {
    use x509_parser::extensions::ParsedExtension;

    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(cert.subject())?;
    let ski = cert
        .iter_extensions()
        .find_map(|ext| match ext.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    params.key_identifier_method =
        KeyIdMethod::PreSpecified(ski.unwrap_or_else(|| public.key_identifier()));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A name as rcgen writes it, which has each attribute at most once.
fn distinguished_name(
    name: &x509_parser::x509::X509Name<'_>,
) -> Result<DistinguishedName, IssueError> {
    let mut copy = DistinguishedName::new();
    for rdn in name.iter() {
        let mut attributes = rdn.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return Err(IssueError::Subject);
        };
        let oid = attribute.attr_type().iter().map(Iterator::collect);
        let attribute_type = DnType::from_oid(&oid.unwrap_or_else(Vec::new));
        if copy.get(&attribute_type).is_some() {
            return Err(IssueError::Subject);
        }
        copy.push(attribute_type, dn_value(attribute)?);
    }
    Ok(copy)
}

fn dn_value(
    attribute: &x509_parser::x509::AttributeTypeAndValue<'_>,
) -> Result<DnValue, IssueError> {
    use x509_parser::asn1_rs::Tag;

    let malformed = |what: &str| IssueError::Authority(InvalidAuthority::Malformed(what.into()));
    let value = attribute
        .as_str()
        .map_err(|_| malformed("subject is not text"))?;
    match attribute.attr_value().tag() {
        Tag::PrintableString => value
            .try_into()
            .map(DnValue::PrintableString)
            .map_err(encode),
        Tag::Ia5String => value.try_into().map(DnValue::Ia5String).map_err(encode),
        Tag::Utf8String => Ok(DnValue::Utf8String(value.into())),
        _ => Err(malformed("subject has a string type that is not supported")),
    }
}

fn date(at: UnixTime) -> Result<time::OffsetDateTime, IssueError> {
    time::OffsetDateTime::from_unix_timestamp(at.as_i64())
        .map_err(|e| IssueError::Encode(e.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn encode(error: rcgen::Error) -> IssueError {
    IssueError::Encode(error.to_string())
}

/// A serial number: 16 random bytes, not all zero.
struct Serial([u8; 16]);

impl Serial {
    fn random() -> Result<Self, IssueError> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| IssueError::Encode("no random numbers from the system".into()))?;
        if bytes == [0; 16] {
            bytes = 1_u128.to_be_bytes();
        }
        Ok(Self(bytes))
    }

    fn decimal(&self) -> String {
        u128::from_be_bytes(self.0).to_string()
    }
}

#[cfg(test)]
mod tests;
