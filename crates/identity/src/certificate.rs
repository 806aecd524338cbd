//! A certificate's fields for display. No decision is based on them.

mod subject;

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::verify::uri_names;
use crate::{SpiffeId, UnixTime};

/// The bytes are not an X.509 certificate in DER.
#[derive(Debug, Clone, thiserror::Error)]
#[error("malformed certificate")]
pub struct InvalidCertificate(#[source] x509_parser::nom::Err<x509_parser::error::X509Error>);

/// A certificate's fields for display. None of them was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Its SPIFFE ID, if it has exactly one. Roots need not have one, and intermediates may have any.
    pub id: Option<SpiffeId>,
    /// Until when it is valid.
    pub not_after: UnixTime,
    /// Its subject as RFC 2253 writes it, the most specific part first.
    pub subject: String,
}

impl CertificateSummary {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// [`InvalidCertificate`]
    pub fn parse(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let (_, cert) = X509Certificate::from_der(der).map_err(InvalidCertificate)?;
        Ok(Self {
            id: id_of(&cert),
            not_after: UnixTime::from_i64(cert.validity().not_after.timestamp()),
            subject: subject::text(cert.subject()),
        })
    }
}

fn id_of(cert: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = cert.subject_alternative_name().ok()??;
    let mut uris = uri_names(&names.value.general_names);
    let id = SpiffeId::parse(uris.next()?).ok()?;
    uris.next().is_none().then_some(id)
}
