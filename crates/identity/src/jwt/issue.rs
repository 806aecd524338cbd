//! Making JWT-SVIDs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::{Algorithm, MAX_JWT_LEN};
use crate::bundle::JwtAuthority;
use crate::key::{KeyError, SigningKey};
use crate::{SpiffeId, UnixTime};

/// The length of a key's ID, in characters.
const KEY_ID_LEN: usize = 32;

/// Why a JWT-SVID could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtIssueError {
    /// There is no audience, or each is empty.
    #[error("invalid JWT-SVID audience: cannot be empty")]
    NoAudience,
    /// The token would be longer than [`MAX_JWT_LEN`].
    #[error("the token would be longer than {MAX_JWT_LEN} bytes: name fewer or shorter audiences")]
    TooLong,
    /// The authority has expired, so nothing that it signs would be valid.
    #[error("JWT authority expired at {0}")]
    Expired(UnixTime),
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There were no random numbers.
    #[error("no random numbers from the system")]
    Random,
}

/// What to put into a JWT-SVID.
#[derive(Clone, Copy, Debug)]
pub struct JwtTemplate<'a> {
    /// The subject.
    pub id: &'a SpiffeId,
    /// The audience. Empty strings are left out; one must remain.
    pub audience: &'a [String],
    /// Lifetime from now, in whole seconds; cut at the authority's own end.
    pub ttl: Duration,
    /// The claim `iss`.
    pub issuer: Option<&'a str>,
    /// Whether the token gets a unique ID, the claim `jti`.
    pub with_id: bool,
}

/// A JWT-SVID that was signed just now.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedJwt {
    /// The compact JWS. A bearer token: it authenticates its holder as the subject.
    pub token: String,
    /// The claim `iat`.
    pub issued_at: UnixTime,
    /// The claim `exp`; never later than the authority.
    pub expires_at: UnixTime,
}

impl fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedJwt")
            .field("issued_at", &self.issued_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// An authority that signs JWT-SVIDs: a key, its ID, and its end.
#[derive(Clone, Debug)]
pub struct JwtSigner {
    key: Arc<dyn SigningKey>,
    key_id: String,
    not_after: UnixTime,
}

impl JwtSigner {
    /// An authority ready to sign.
    #[must_use]
    pub fn new(key: Arc<dyn SigningKey>, key_id: String, not_after: UnixTime) -> Self {
        Self {
            key,
            key_id,
            not_after,
        }
    }

    /// The authority as bundles have it.
    #[must_use]
    pub fn authority(&self) -> JwtAuthority {
        JwtAuthority {
            key_id: self.key_id.clone(),
            public_key: self.key.spki().to_vec(),
            expires_at: Some(self.not_after),
            tainted: false,
        }
    }

    /// Names the key in headers.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// When the authority is over.
    #[must_use]
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Signs a JWT-SVID.
    ///
    /// # Errors
    /// There is no audience, the authority has expired, or the key does not sign.
    pub fn issue(
        &self,
        template: &JwtTemplate<'_>,
        now: UnixTime,
    ) -> Result<IssuedJwt, JwtIssueError> {
        if now >= self.not_after {
            return Err(JwtIssueError::Expired(self.not_after));
        }
        let expires_at = now.after(template.ttl).min(self.not_after);
        let claims = claims(template, now, expires_at)?;
        let algorithm = Algorithm::of_key(self.key.key_type());
        let header = json!({"alg": algorithm.as_str(), "kid": self.key_id, "typ": "JWT"});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(Value::Object(claims).to_string(), &mut token);
        // Checked before signing, to save a key in a hardware device the work; checked again with the signature.
        if token.len() > MAX_JWT_LEN {
            return Err(JwtIssueError::TooLong);
        }
        let signature = algorithm
            .to_jws(self.key.sign(token.as_bytes())?)
            .ok_or_else(|| KeyError::Sign("the key's signature is malformed".into()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        if token.len() > MAX_JWT_LEN {
            return Err(JwtIssueError::TooLong);
        }
        Ok(IssuedJwt {
            token,
            issued_at: now,
            expires_at,
        })
    }
}

fn claims(
    template: &JwtTemplate<'_>,
    now: UnixTime,
    expires_at: UnixTime,
) -> Result<Map<String, Value>, JwtIssueError> {
    let audience: Vec<&String> = template.audience.iter().filter(|a| !a.is_empty()).collect();
    if audience.is_empty() {
        return Err(JwtIssueError::NoAudience);
    }
    let mut claims = Map::new();
    claims.insert("sub".into(), template.id.as_str().into());
    claims.insert("aud".into(), json!(audience));
    claims.insert("iat".into(), now.as_secs().into());
    claims.insert("exp".into(), expires_at.as_secs().into());
    if let Some(issuer) = template.issuer {
        claims.insert("iss".into(), issuer.into());
    }
    if template.with_id {
        claims.insert("jti".into(), token_id()?.into());
    }
    Ok(claims)
}

/// The bytes of a random UUID (version 4), as unpadded base64url.
fn token_id() -> Result<String, JwtIssueError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| JwtIssueError::Random)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A fresh ID for a key: 32 random letters and digits.
///
/// # Errors
/// [`JwtIssueError::Random`] if the system has no random numbers.
pub fn random_key_id() -> Result<String, JwtIssueError> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(KEY_ID_LEN);
    while id.len() < KEY_ID_LEN {
        let mut bytes = [0_u8; KEY_ID_LEN];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| JwtIssueError::Random)?;
        // Rejection sampling: bytes that would make some characters likelier than others are skipped.
        let characters = bytes
            .iter()
            .filter_map(|b| ALPHABET.get(usize::from(b & 0x3f)))
            .map(|c| char::from(*c));
        id.extend(characters.take(KEY_ID_LEN - id.len()));
    }
    Ok(id)
}
