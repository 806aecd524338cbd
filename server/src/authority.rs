//! The server's certificate authority: its keys, their rotation, and everything that is signed with them.
//!
//! The authority lives in two slots. One is active and signs; the other holds the next authority, published in the
//! bundle well before its first use, or the one before, whose certificates are still about. All signing runs on one pool
//! of blocking threads; the async threads only wait. Handlers of the API call [`Authority::sign_agent`] and
//! [`Authority::sign_workloads`]; the daemon runs the rotation.

use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::{Entry, SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;

/// An X.509-SVID that was just signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Whose it is.
    pub id: SpiffeId,
    /// The leaf first, then the authority's certificates up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's serial number, in decimal.
    pub serial: String,
    /// The leaf's `notAfter`.
    pub expires_at: UnixTime,
}

/// One workload's certificate to sign: names and lifetime come from the entry, only the key from the CSR.
#[derive(Clone, Debug)]
pub struct WorkloadRequest {
    /// The entry that the caller is authorised for.
    pub entry: Arc<Entry>,
    /// The certificate signing request, in DER.
    pub csr_der: Bytes,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The CSR does not parse, its own signature is wrong, or its key is of no supported kind: the caller's fault.
    #[error("invalid CSR: {0}")]
    InvalidCsr(String),
    /// The authority's key or the encoder failed: the server's fault.
    #[error("the certificate could not be signed: {0}")]
    Internal(String),
    /// There is no active authority, or the one there is has expired.
    #[error("the server has no valid authority to sign with at the moment")]
    Unavailable,
}

/// Signs with the active authority, and rotates it.
#[derive(Debug)]
pub struct Authority {}

impl Authority {
    /// Signs a node agent's X.509-SVID, with the configured `agent_ttl`. Of the CSR only the key is used.
    ///
    /// # Errors
    /// [`SignError`], by whose fault it is.
    pub async fn sign_agent(&self, _id: &SpiffeId, _csr_der: Bytes) -> Result<Issued, SignError> {
        Err(SignError::Unavailable)
    }

    /// Signs X.509-SVIDs for workloads; answer `i` belongs to request `i`, and one failure leaves the others alone.
    pub async fn sign_workloads(
        &self,
        requests: Vec<WorkloadRequest>,
    ) -> Vec<Result<Issued, SignError>> {
        requests
            .iter()
            .map(|_| Err(SignError::Unavailable))
            .collect()
    }
}
