//! Signing JWT-SVIDs.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::SpiffeId;
use countersign_identity::jwt::{IssuedJwt, JwtIssueError, JwtTemplate};

use super::{Authority, Purpose, Shared, SignError};

/// One JWT-SVID to sign.
#[derive(Clone, Debug)]
pub struct JwtRequest {
    /// The subject.
    pub id: SpiffeId,
    /// The claim `aud`; at least one.
    pub audience: Vec<String>,
    /// Lifetime in whole seconds; none for the configured one.
    pub ttl: Option<Duration>,
    /// Whether the token gets an ID of its own.
    pub with_id: bool,
}

impl From<JwtIssueError> for SignError {
    fn from(error: JwtIssueError) -> Self {
        match error {
            JwtIssueError::Expired(_) => Self::Unavailable,
            JwtIssueError::NoAudience | JwtIssueError::TooLong => Self::Audience(error),
            other => Self::Internal(other.into()),
        }
    }
}

impl Authority {
    /// Whether this server signs JWT-SVIDs.
    #[must_use]
    pub fn signs_jwt(&self) -> bool {
        self.0.settings.jwt.is_some()
    }

    /// Signs a JWT-SVID.
    ///
    /// # Errors
    /// [`SignError`], by whose fault it is.
    pub async fn sign_jwt(&self, request: JwtRequest) -> Result<IssuedJwt, SignError> {
        let shared = Arc::clone(&self.0);
        let signed = self.0.pool.run(move || shared.sign_jwt(&request));
        let signed = signed.await.map_err(SignError::Internal).flatten();
        Purpose::Jwt.counted(signed)
    }
}

impl Shared {
    fn sign_jwt(&self, request: &JwtRequest) -> Result<IssuedJwt, SignError> {
        let settings = self.settings.jwt.as_ref().ok_or(SignError::Unavailable)?;
        let signer = self.jwt.load_full().ok_or(SignError::Unavailable)?;
        let template = JwtTemplate {
            id: &request.id,
            audience: &request.audience,
            ttl: request.ttl.unwrap_or(settings.svid_ttl),
            issuer: settings.issuer.as_deref(),
            with_id: request.with_id,
        };
        Ok(signer.issue(&template, self.clock.now())?)
    }
}
