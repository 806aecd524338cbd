//! A newly signed X.509-SVID or downstream authority, without its key.

use rustls_pki_types::CertificateDer;

use crate::{SpiffeId, UnixTime};

/// An X.509-SVID that was just signed, or the authority of a downstream server: certificates without a key, on their
/// way to the node or server that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSvid {
    /// The SPIFFE ID in the leaf.
    pub id: SpiffeId,
    /// The leaf, then the authority's certificates up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's serial number, in decimal.
    pub serial: String,
    /// The leaf's `notAfter`; never later than the authority's.
    pub expires_at: UnixTime,
}
