//! Trust bundles: the authorities of a trust domain, and sets of bundles.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::FromDer as _;

use crate::{SpiffeId, TrustDomain, UnixTime};

pub mod document;

/// The largest certificate that is accepted as an authority, in bytes of DER.
pub const MAX_AUTHORITY_LEN: usize = 16 * 1024;

/// The most authorities that are read from one bundle.
pub const MAX_AUTHORITIES: usize = 1_024;

/// Why a certificate cannot be an X.509 authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAuthority {
    /// Larger than [`MAX_AUTHORITY_LEN`].
    #[error("certificate is larger than {MAX_AUTHORITY_LEN} bytes")]
    TooLarge,
    /// Not exactly one X.509 certificate in DER.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// A certificate that is not allowed to sign others.
    #[error("certificate is not a certificate authority")]
    NotCa,
    /// More than [`MAX_AUTHORITIES`] where a bundle is read.
    #[error("more than {MAX_AUTHORITIES} certificates")]
    TooMany,
}

/// An X.509 authority: a root certificate of a trust domain. Cheap to clone.
#[derive(Clone)]
pub struct X509Authority {
    parsed: Arc<Parsed>,
    /// About to be revoked: everything that it signed must be renewed at once.
    tainted: bool,
}

struct Parsed {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: UnixTime,
    not_after: UnixTime,
    path_len: Option<u32>,
    can_sign: bool,
    ski: String,
    aki: String,
    self_issued: bool,
}

impl X509Authority {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// Anything but exactly one certificate of a certificate authority.
    pub fn new(der: CertificateDer<'static>) -> Result<Self, InvalidAuthority> {
        if der.len() > MAX_AUTHORITY_LEN {
            return Err(InvalidAuthority::TooLarge);
        }
        let malformed = |e: &dyn fmt::Display| InvalidAuthority::Malformed(e.to_string());
        let (rest, cert) =
            x509_parser::certificate::X509Certificate::from_der(&der).map_err(|e| malformed(&e))?;
        if !rest.is_empty() {
            return Err(InvalidAuthority::Malformed(
                "bytes after the certificate".into(),
            ));
        }
        let constraints = cert.basic_constraints().map_err(|e| malformed(&e))?;
        let Some(constraints) = constraints.filter(|c| c.value.ca) else {
            return Err(InvalidAuthority::NotCa);
        };
        let path_len = constraints.value.path_len_constraint;
        let usage = cert.key_usage().map_err(|e| malformed(&e))?;
        let can_sign = usage.is_none_or(|u| u.value.key_cert_sign());
        let ski = subject_key_id(&cert);
        let aki = authority_key_id(&cert);
        let self_issued = cert.issuer().as_raw() == cert.subject().as_raw();
        let validity = cert.validity();
        let not_before = UnixTime::from_i64(validity.not_before.timestamp());
        let not_after = UnixTime::from_i64(validity.not_after.timestamp());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|e| malformed(&e))?
            .to_owned();
        // The parsed certificate borrows from the bytes, so the bytes move last.
        let parsed = Parsed {
            anchor,
            not_before,
            not_after,
            path_len,
            can_sign,
            ski,
            aki,
            self_issued,
            der,
        };
        Ok(Self {
            parsed: Arc::new(parsed),
            tainted: false,
        })
    }

    /// Reads the form of the Workload API: certificates in DER, one after the other.
    ///
    /// # Errors
    /// Bytes that are not authorities, or too many of them.
    pub fn split_der(mut bytes: &[u8]) -> Result<Vec<Self>, InvalidAuthority> {
        let mut authorities = Vec::new();
        while !bytes.is_empty() {
            if authorities.len() == MAX_AUTHORITIES {
                return Err(InvalidAuthority::TooMany);
            }
            let (rest, cert) = x509_parser::certificate::X509Certificate::from_der(bytes)
                .map_err(|e| InvalidAuthority::Malformed(e.to_string()))?;
            authorities.push(Self::new(CertificateDer::from(cert.as_raw().to_vec()))?);
            bytes = rest;
        }
        Ok(authorities)
    }

    /// The same authority, marked as tainted or not.
    #[must_use]
    pub fn with_tainted(&self, tainted: bool) -> Self {
        Self {
            parsed: Arc::clone(&self.parsed),
            tainted,
        }
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.parsed.der
    }

    /// Whether this authority is tainted: everything that it signed must be renewed at once.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// When the certificate begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.parsed.not_before
    }

    /// When the certificate expires.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.parsed.not_after
    }

    /// The authority ID: its subject key identifier in lower-case hex; empty if it has none.
    #[must_use]
    pub fn authority_id(&self) -> &str {
        &self.parsed.ski
    }

    /// The ID of the authority that signed this one: its authority key identifier in lower-case hex; empty if it has
    /// none, as a self-signed one.
    #[must_use]
    pub fn issuer_id(&self) -> &str {
        &self.parsed.aki
    }

    /// Whether this is a root: issuer and subject are equal, and the authority key identifier, if any, is its own.
    /// Equal names are not enough: an intermediate may have the same name as its issuer (self-issued, RFC 5280, 3.2).
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.parsed.self_issued
            && (self.parsed.aki.is_empty() || self.parsed.aki == self.parsed.ski)
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.parsed.anchor
    }

    pub(crate) fn path_len(&self) -> Option<u32> {
        self.parsed.path_len
    }

    pub(crate) fn can_sign_at(&self, at: UnixTime) -> bool {
        self.parsed.can_sign && self.parsed.not_before <= at && at <= self.parsed.not_after
    }
}

impl PartialEq for X509Authority {
    fn eq(&self, other: &Self) -> bool {
        self.parsed.der == other.parsed.der && self.tainted == other.tainted
    }
}

impl Eq for X509Authority {}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority")
            .field("authority_id", &self.parsed.ski)
            .field("not_after", &self.parsed.not_after)
            .field("tainted", &self.is_tainted())
            .finish_non_exhaustive()
    }
}

fn subject_key_id(cert: &x509_parser::certificate::X509Certificate<'_>) -> String {
    use x509_parser::extensions::ParsedExtension;

    cert.iter_extensions()
        .find_map(|ext| match ext.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
            _ => None,
        })
        .unwrap_or_default()
}

fn authority_key_id(cert: &x509_parser::certificate::X509Certificate<'_>) -> String {
    use x509_parser::extensions::ParsedExtension;

    cert.iter_extensions()
        .find_map(|ext| match ext.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref(),
            _ => None,
        })
        .map(|id| hex(id.0))
        .unwrap_or_default()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;

    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
            let _ = write!(text, "{b:02x}");
            text
        })
}

/// A key that signs JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    /// Names the key in JWT headers.
    pub key_id: String,
    /// SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// When the key expires; `None` if unknown.
    pub expires_at: Option<UnixTime>,
    /// Whether this key is tainted: everything that it signed must be renewed at once.
    pub tainted: bool,
}

/// The trust bundle of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The trust domain of these authorities.
    pub trust_domain: TrustDomain,
    /// Roots for X.509-SVIDs.
    pub x509_authorities: Vec<X509Authority>,
    /// Keys for JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often consumers should fetch the bundle; `None` if not specified.
    pub refresh_hint: Option<Duration>,
    /// Incremented with each change.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle without authorities.
    #[must_use]
    pub const fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: None,
            sequence_number: 0,
        }
    }

    /// All X.509 authorities in DER, one after the other, as the Workload API sends them.
    #[must_use]
    pub fn x509_der(&self) -> Vec<u8> {
        self.x509_authorities
            .iter()
            .flat_map(|a| a.der().as_ref().iter().copied())
            .collect()
    }

    /// Whether an X.509 authority of the earlier bundle is missing here, so that its SVIDs no longer verify.
    #[must_use]
    pub fn lost_authority_of(&self, earlier: &Self) -> bool {
        earlier
            .x509_authorities
            .iter()
            .any(|old| !self.x509_authorities.iter().any(|a| a.der() == old.der()))
    }
}

/// A source of the current bundles, for verification.
pub trait Bundles: Send + Sync + fmt::Debug {
    /// The bundle of the trust domain with this bare name.
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>>;

    /// The bundle of the trust domain that this ID belongs to, and of no other.
    fn bundle_of(&self, id: &SpiffeId) -> Option<Arc<Bundle>> {
        self.bundle(id.trust_domain_name())
    }
}

/// A fixed set of bundles, one per trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleSet(HashMap<String, Arc<Bundle>>);

impl BundleSet {
    /// The bundles, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    /// Adds a bundle, or replaces that of the same trust domain.
    pub fn insert(&mut self, bundle: Arc<Bundle>) {
        self.0.insert(bundle.trust_domain.to_string(), bundle);
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let mut set = Self::default();
        bundles.into_iter().for_each(|b| set.insert(Arc::new(b)));
        set
    }
}

impl Bundles for BundleSet {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.get(trust_domain).cloned()
    }
}
