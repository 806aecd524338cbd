//! X.509-SVIDs as administrators ask for them: key, names and subject come from the request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::csr::{Csr, InvalidCsr};
use countersign_identity::entry::{DnsName, InvalidDnsName};
use countersign_identity::issue::{Subject, SvidTemplate};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{SignedSvid, SpiffeId, TrustDomain};

use super::{Authority, Purpose, Shared, SignError};

/// Why an X.509-SVID was not minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The request does not parse.
    #[error("malformed CSR: {0}")]
    Csr(InvalidCsr),
    /// The requester did not prove that it holds the key.
    #[error("failed to verify CSR signature: {0}")]
    Signature(InvalidCsr),
    /// There is no URI SAN.
    #[error("CSR URI SAN is required")]
    UriMissing,
    /// There are several URI SANs.
    #[error("only one URI SAN is expected")]
    Uris,
    /// The URI SAN is not a SPIFFE ID.
    #[error("CSR URI SAN is invalid: {0}")]
    Id(#[from] InvalidId),
    /// The URI SAN is not the ID of a workload of this trust domain.
    #[error(
        "CSR URI SAN is invalid: \"{id}\" is not a {}",
        not_a(id, trust_domain)
    )]
    NotWorkload {
        /// What stands there.
        id: SpiffeId,
        /// Of which it should be.
        trust_domain: TrustDomain,
    },
    /// A DNS SAN is none.
    #[error("CSR DNS name is invalid: {0}")]
    DnsName(#[from] InvalidDnsName),
    /// A wildcard and a name that it stands for.
    #[error(
        "CSR DNS name contains a wildcard that covers another non-wildcard name: name {0:?} overlaps with an existing \
         wildcard name in the list: wildcard overlap"
    )]
    Overlap(String),
    /// It was not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

fn not_a(id: &SpiffeId, trust_domain: &TrustDomain) -> String {
    if !id.is_member_of(trust_domain) {
        return format!("member of trust domain \"{trust_domain}\"");
    }
    let why = if id.path().is_empty() {
        "path is empty"
    } else {
        "path is in the reserved namespace"
    };
    format!("workload in trust domain \"{trust_domain}\"; {why}")
}

impl Authority {
    /// Signs what the request asks for: its key, its one SPIFFE ID, its DNS names in order, and its subject unless that is
    /// empty.
    ///
    /// # Errors
    /// [`MintError`]; all but the last variant are the caller's fault.
    pub async fn mint(
        &self,
        csr_der: Bytes,
        ttl: Option<Duration>,
    ) -> Result<SignedSvid, MintError> {
        let shared = Arc::clone(&self.0);
        let signed = self.0.pool.run(move || shared.mint(&csr_der, ttl));
        let signed = signed
            .await
            .map_err(|error| SignError::Internal(error).into())
            .flatten();
        Purpose::X509.counted(signed)
    }
}

impl Shared {
    fn mint(&self, csr_der: &[u8], ttl: Option<Duration>) -> Result<SignedSvid, MintError> {
        let csr = Csr::parse(csr_der).map_err(MintError::Csr)?;
        csr.verify_signature().map_err(MintError::Signature)?;
        let names = csr.names().map_err(MintError::Csr)?;
        let id = workload(&names.uris, &self.settings.trust_domain)?;
        let dns_names = names.dns.iter().map(|name| DnsName::new(name));
        let dns_names: Vec<DnsName> = dns_names.collect::<Result<_, _>>()?;
        // SPIRE refuses this too, and tools match its words.
        if let Some(name) = overlapping(&dns_names) {
            return Err(MintError::Overlap(name.as_str().to_owned()));
        }
        let subject = csr.requested_subject().unwrap_or_else(Subject::svid);
        let template = SvidTemplate {
            id: &id,
            dns_names: &dns_names,
            ttl: ttl.unwrap_or(self.settings.x509_svid_ttl),
        };
        Ok(self.issue_named(&template, subject, csr.public_key())?)
    }
}

fn workload(uris: &[&str], trust_domain: &TrustDomain) -> Result<SpiffeId, MintError> {
    let uri = match uris {
        [] => return Err(MintError::UriMissing),
        [one] => one,
        _ => return Err(MintError::Uris),
    };
    let id = SpiffeId::parse(uri)?;
    if id.is_member_of(trust_domain) && id.is_workload() {
        return Ok(id);
    }
    let trust_domain = trust_domain.clone();
    Err(MintError::NotWorkload { id, trust_domain })
}

/// The first name for which another one is a wildcard.
fn overlapping(names: &[DnsName]) -> Option<&DnsName> {
    names.iter().find(|name| {
        let (first, rest) = name.as_str().split_once('.').unwrap_or((name.as_str(), ""));
        let wildcard = |other: &DnsName| other.as_str().strip_prefix("*.") == Some(rest);
        first != "*" && !rest.is_empty() && names.iter().any(wildcard)
    })
}
