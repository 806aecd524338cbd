//! What a certificate says, for people to read. Nothing is decided by it.

mod subject;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::{SpiffeId, UnixTime};

/// A certificate as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its SPIFFE ID, if it has exactly one. Roots need not have one, and intermediates may be anybody's.
    pub id: Option<SpiffeId>,
    /// When it ends.
    pub not_after: UnixTime,
    /// Its subject as RFC 2253 writes it, the most specific part first.
    pub subject: String,
}

impl Described {
    /// Reads one certificate in DER. It is not verified.
    ///
    /// # Errors
    /// It is none.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
        Ok(Self {
            id: id_of(&cert),
            not_after: UnixTime::from_i64(cert.validity().not_after.timestamp()),
            subject: subject::text(cert.subject()),
        })
    }
}

fn id_of(cert: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = cert.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let id = SpiffeId::parse(uris.next()?).ok()?;
    uris.next().is_none().then_some(id)
}
