//! Why a step in the life of the authorities failed.

use countersign_identity::UnixTime;
use countersign_identity::bundle::InvalidAuthority;
use countersign_identity::issue::IssueError;
use countersign_identity::issued_ca::InvalidIssuedCa;
use countersign_identity::jwt::JwtIssueError;
use countersign_store::StoreError;
use countersign_transport::error::BoxError;

use crate::keymanager::KeyManagerError;
use crate::upstream::UpstreamError;

/// Why an authority was not opened, prepared, activated or pruned.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The key manager failed.
    #[error("the key manager failed")]
    Keys(#[from] KeyManagerError),
    /// The store failed.
    #[error("the authority's journal and bundle could not be read or written")]
    Store(#[from] StoreError),
    /// The certificate could not be made.
    #[error("the authority's certificate could not be made")]
    Issue(#[from] IssueError),
    /// The certificate that was made can't be read back.
    #[error("the authority's certificate can't be used")]
    Certificate(#[from] InvalidAuthority),
    /// There is no ID for a JWT key.
    #[error("the JWT authority could not be made")]
    Jwt(#[from] JwtIssueError),
    /// The upstream authority did not do its part.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the upstream authority signed can't be used.
    #[error("the upstream authority signed what can't be used: it is not taken")]
    Minted(#[from] InvalidIssuedCa),
    /// The clock is before the time at which the active authority was made.
    #[error(
        "the clock says {now}, but the active authority is valid only from {not_before}: set the clock, then start again"
    )]
    ClockBehind {
        /// What the clock says.
        now: UnixTime,
        /// From when the authority is valid.
        not_before: UnixTime,
    },
    /// The prepared authority's key is gone.
    #[error("the key manager no longer has the key of the prepared authority")]
    KeyMissing,
    /// A blocking job ended early: it panicked, or the process is shutting down.
    #[error("a job of the key manager did not finish")]
    Job(#[source] BoxError),
}
