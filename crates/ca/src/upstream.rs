//! Upstream authorities, which sign the X.509 authorities of a server that is not a root.
//!
//! An [`UpstreamAuthority`] signs the certificate of an authority, and may publish JWT keys and follow the trust domain's
//! bundle. What it returns is checked by [`countersign_identity::issued_ca`] before anything is signed with it. The
//! authority's rotation is the only caller, except for JWT keys of downstream servers, which the API passes on.

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
pub use spire::{InvalidAnswer, InvalidIdentity, Spire, SpireError, SpireSettings, WorkloadError};

/// An X.509 authority signed by an upstream authority.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The new authority's certificate, then its issuers up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the upstream authority; the chain leads to one of them.
    pub roots: Vec<X509Authority>,
}

/// All authorities of the trust domain, as returned by an upstream server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamBundle {
    /// The roots, each with its tainted flag.
    pub x509: Vec<X509Authority>,
    /// The keys that sign JWT-SVIDs.
    pub jwt: Vec<JwtAuthority>,
}

/// The result of publishing a JWT key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is published upstream. These are all JWT keys of the trust domain.
    Upstream(Vec<JwtAuthority>),
    /// The upstream authority does not support JWT keys: the key is only in this server's own bundle.
    Unsupported,
}

/// A watch on the upstream authority's bundle; `None` until the first successful fetch.
pub type BundleUpdates = watch::Receiver<Option<Arc<UpstreamBundle>>>;

/// Why a call to an upstream authority failed. Most causes are transient: callers retry later.
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

    /// Signs an X.509 authority for this CSR (PKCS #10 in DER). The upstream authority may shorten `preferred_ttl`.
    fn mint_x509_ca(
        &self,
        csr: Vec<u8>,
        preferred_ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>>;

    /// Publishes a JWT authority to the whole trust domain.
    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>>;

    /// A watch on the trust domain's authorities; `None` if this upstream authority has no bundle to follow.
    fn bundle(&self) -> Option<BundleUpdates>;

    /// Keeps [`UpstreamAuthority::bundle`] up to date until `stop`.
    fn follow(&self, stop: CancellationToken) -> BoxFuture<'_, ()>;
}
