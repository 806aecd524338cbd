//! Authorities of downstream servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::SignedSvid;
use countersign_identity::csr::Csr;

use super::{Authority, Purpose, Shared, SignError};

impl Authority {
    /// Signs the authority of a downstream server, with its preferred lifetime or `ca_ttl`. Only the key of the CSR is
    /// used; the CSR's signature must prove possession of it.
    ///
    /// # Errors
    /// [`SignError`], which tells the caller's faults from the server's.
    pub async fn sign_downstream(
        &self,
        csr_der: Bytes,
        preferred_ttl: Option<Duration>,
    ) -> Result<SignedSvid, SignError> {
        let shared = Arc::clone(&self.0);
        let signed = self
            .0
            .pool
            .run(move || shared.sign_downstream(&csr_der, preferred_ttl));
        let signed = signed.await.map_err(SignError::Internal).flatten();
        Purpose::Downstream.counted(signed)
    }
}

impl Shared {
    fn sign_downstream(
        &self,
        csr_der: &[u8],
        preferred_ttl: Option<Duration>,
    ) -> Result<SignedSvid, SignError> {
        let csr = Csr::parse(csr_der)?;
        csr.verify_signature()?;
        let ca = self.x509.load_full().ok_or(SignError::Unavailable)?;
        let trust_domain = &self.settings.trust_domain;
        let ttl = preferred_ttl.unwrap_or(self.settings.ca_ttl);
        Ok(ca.issue_authority(trust_domain, csr.public_key(), ttl, self.clock.now())?)
    }
}
