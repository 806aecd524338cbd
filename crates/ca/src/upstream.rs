//! Upstream authorities: who signs this server's own authority, where it is no root itself.
//!
//! An [`UpstreamAuthority`] signs the certificate of an authority, and may take JWT keys and tell which authorities the
//! trust domain has. What it returns is checked by [`countersign_identity::issued_ca`] before anything is signed with it. The
//! authority's rotation is the only caller, but for JWT keys of servers below, which the API passes on.

mod disk;
mod spire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_transport::error::BoxError;
use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use disk::{Disk, DiskError, DiskFiles};
pub use spire::{Spire, SpireError, SpireSettings, WorkloadError};

/// An authority that an upstream authority signed.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The new authority's certificate, then those above it up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that the chain can lead to.
    pub roots: Vec<X509Authority>,
}

/// What the trust domain's authorities are, as an upstream server tells it: the whole of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamBundle {
    /// The roots, tainted ones marked.
    pub x509: Vec<X509Authority>,
    /// The keys that sign JWT-SVIDs.
    pub jwt: Vec<JwtAuthority>,
}

/// What became of a JWT key that was to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// The upstream authority has it; these are all JWT keys of the trust domain.
    Upstream(Vec<JwtAuthority>),
    /// The upstream authority knows nothing of JWT keys: only this server's own bundle can have it.
    Unsupported,
}

/// The upstream authority's bundle as it changes; empty until it was first asked.
pub type BundleUpdates = watch::Receiver<Option<Arc<UpstreamBundle>>>;

/// Why an upstream authority did not do what was asked of it. Most causes pass: callers try again later.
#[derive(Debug, thiserror::Error)]
#[error("upstream authority {name:?} could not {action}")]
pub struct UpstreamError {
    /// Which one.
    pub name: &'static str,
    /// What it was asked to do.
    pub action: &'static str,
    /// Why it could not.
    #[source]
    pub source: BoxError,
}

/// Signs the authorities of servers.
pub trait UpstreamAuthority: fmt::Debug + Send + Sync + 'static {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Signs the authority that this request (PKCS#10 in DER) asks for, for about this long.
    fn mint_x509_ca(
        &self,
        csr: Vec<u8>,
        preferred_ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>>;

    /// Makes a key that signs JWT-SVIDs known to the whole trust domain.
    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>>;

    /// The trust domain's authorities as they change; none if this upstream authority does not tell.
    fn bundle(&self) -> Option<BundleUpdates>;

    /// Keeps [`UpstreamAuthority::bundle`] up to date until `stop`.
    fn follow(&self, stop: CancellationToken) -> BoxFuture<'_, ()>;
}
