//! Reading and verifying JWT-SVIDs.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json::Object;
use super::{Algorithm, MAX_JWT_LEN};
use crate::bundle::Bundles;
use crate::spiffe_id::InvalidId;
use crate::{Bundle, SpiffeId, TrustDomain, UnixTime};

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJwt {
    /// Longer than [`MAX_JWT_LEN`].
    #[error("token is longer than {MAX_JWT_LEN} bytes")]
    TooLong,
    /// Not a JWS in compact form, or its header or claims are no JSON objects.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// The header's `alg` is missing, or not one of [`Algorithm`].
    #[error("token header has an algorithm that is not allowed for JWT-SVIDs")]
    Algorithm,
    /// The header names extensions that must be understood, and none is.
    #[error("token header has critical extensions, which are not supported")]
    Critical,
    /// The header has no `kid`.
    #[error("token header missing key id")]
    KeyIdMissing,
    /// The header's `typ` is neither `JWT` nor `JOSE`.
    #[error("token header type must be JWT or JOSE")]
    Type,
    /// There is no `sub`.
    #[error("token missing subject claim")]
    SubjectMissing,
    /// `sub` is not a SPIFFE ID.
    #[error("token has an invalid subject claim: {0}")]
    Subject(#[from] InvalidId),
    /// There is no `exp`.
    #[error("token missing exp claim")]
    ExpiryMissing,
    /// A claim is not of the type that RFC 7519 gives it.
    #[error("token has an invalid {0} claim")]
    Claim(&'static str),
    /// There is no bundle of the subject's trust domain.
    #[error("no keys found for trust domain \"{0}\"")]
    NoBundle(TrustDomain),
    /// The trust domain's bundle has no such key.
    #[error("public key \"{key_id}\" not found in trust domain \"{trust_domain}\"")]
    UnknownKey {
        /// What the header says.
        key_id: String,
        /// Whose bundle was searched.
        trust_domain: TrustDomain,
    },
    /// The key did not make this signature with this algorithm.
    #[error("token signature does not verify")]
    Signature,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("token is not valid yet: it is valid from {0}")]
    NotYetValid(UnixTime),
    /// `iat` is in the future.
    #[error("token was issued in the future, at {0}: is the clock right?")]
    IssuedInFuture(UnixTime),
    /// The token is for another audience.
    #[error("expected audience in {expected:?} (audience={actual:?})")]
    Audience {
        /// The accepted audiences.
        expected: Vec<String>,
        /// The token's audience.
        actual: Vec<String>,
    },
}

/// A parsed token that has not been verified: do not rely on its claims.
pub struct Jwt<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: String,
    id: SpiffeId,
    claims: Claims,
}

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedJwt {
    /// The subject.
    pub id: SpiffeId,
    /// The audience.
    pub audience: Vec<String>,
    /// When it expires.
    pub expires_at: UnixTime,
    /// When it was issued, if it has the claim `iat`.
    pub issued_at: Option<UnixTime>,
    /// Which key signed it.
    pub key_id: String,
    /// All claims, unchanged.
    pub claims: Map<String, Value>,
}

struct Claims {
    audience: Vec<String>,
    expires_at: UnixTime,
    not_before: Option<UnixTime>,
    issued_at: Option<UnixTime>,
    all: Map<String, Value>,
}

impl fmt::Debug for Jwt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("id", &self.id)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// Verifies a token against the bundle of its subject's own trust domain.
///
/// The token must name at least one of `audience`; `leeway` is the tolerated clock skew.
///
/// # Errors
/// The first rule that the token breaks.
pub fn verify_jwt(
    token: &str,
    bundles: &dyn Bundles,
    audience: &[&str],
    now: UnixTime,
    leeway: Duration,
) -> Result<VerifiedJwt, InvalidJwt> {
    let jwt = Jwt::parse(token)?;
    let bundle = bundles.bundle_of(jwt.id());
    let bundle = bundle.ok_or_else(|| InvalidJwt::NoBundle(jwt.id().trust_domain()))?;
    jwt.verify(&bundle, audience, now, leeway)
}

impl<'a> Jwt<'a> {
    /// Reads a compact JWS.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(token: &'a str) -> Result<Self, InvalidJwt> {
        let malformed = InvalidJwt::Malformed;
        if token.len() > MAX_JWT_LEN {
            return Err(InvalidJwt::TooLong);
        }
        let (signed, signature) = token
            .rsplit_once('.')
            .ok_or(malformed("not three parts with dots between them"))?;
        let (header, claims) = signed
            .split_once('.')
            .ok_or(malformed("not three parts with dots between them"))?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| malformed("signature is not base64url"))?;
        let header = object(header).ok_or(malformed("header is not a JSON object"))?;
        let claims = object(claims).ok_or(malformed("claims are not a JSON object"))?;
        let (algorithm, key_id) = read_header(&header)?;
        let (id, claims) = read_claims(claims)?;
        Ok(Self {
            signed,
            signature,
            algorithm,
            key_id,
            id,
            claims,
        })
    }

    /// The claimed subject: its trust domain's bundle must verify the token.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The claimed ID of the signing key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// When it claims to expire.
    #[must_use]
    pub const fn expires_at(&self) -> UnixTime {
        self.claims.expires_at
    }

    /// When it claims to have been issued.
    #[must_use]
    pub const fn issued_at(&self) -> Option<UnixTime> {
        self.claims.issued_at
    }

    /// Verifies it against a bundle, which must be that of the subject's trust domain. It must name one of `audience`.
    ///
    /// # Errors
    /// The first rule that it breaks; the signature comes before the claims.
    pub fn verify(
        self,
        bundle: &Bundle,
        audience: &[&str],
        now: UnixTime,
        leeway: Duration,
    ) -> Result<VerifiedJwt, InvalidJwt> {
        if !self.id.is_member_of(&bundle.trust_domain) {
            return Err(InvalidJwt::NoBundle(self.id.trust_domain()));
        }
        let authority = bundle
            .jwt_authorities
            .iter()
            .find(|a| a.key_id == self.key_id)
            .ok_or_else(|| InvalidJwt::UnknownKey {
                key_id: self.key_id.clone(),
                trust_domain: bundle.trust_domain.clone(),
            })?;
        let signed = self.signed.as_bytes();
        if !self
            .algorithm
            .verify(&authority.public_key, signed, &self.signature)
        {
            return Err(InvalidJwt::Signature);
        }
        self.claims.check(audience, now, leeway)?;
        Ok(VerifiedJwt {
            id: self.id,
            audience: self.claims.audience,
            expires_at: self.claims.expires_at,
            issued_at: self.claims.issued_at,
            key_id: self.key_id,
            claims: self.claims.all,
        })
    }
}

impl Claims {
    fn check(&self, audience: &[&str], now: UnixTime, leeway: Duration) -> Result<(), InvalidJwt> {
        if !self.audience.iter().any(|a| audience.contains(&a.as_str())) {
            return Err(InvalidJwt::Audience {
                expected: audience.iter().map(|a| (*a).to_owned()).collect(),
                actual: self.audience.clone(),
            });
        }
        if now > self.expires_at.after(leeway) {
            return Err(InvalidJwt::Expired);
        }
        let to_come = |at: &UnixTime| now.after(leeway) < *at;
        if let Some(at) = self.not_before.filter(to_come) {
            return Err(InvalidJwt::NotYetValid(at));
        }
        if let Some(at) = self.issued_at.filter(to_come) {
            return Err(InvalidJwt::IssuedInFuture(at));
        }
        Ok(())
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice::<Object>(&bytes).ok().map(|o| o.0)
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, String), InvalidJwt> {
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::from_name)
        .ok_or(InvalidJwt::Algorithm)?;
    // RFC 7515, 4.1.11: a token with a critical extension that is not understood is invalid.
    if header.contains_key("crit") {
        return Err(InvalidJwt::Critical);
    }
    match header.get("typ").map(Value::as_str) {
        None | Some(Some("JWT" | "JOSE")) => {}
        Some(_) => return Err(InvalidJwt::Type),
    }
    match header.get("kid").and_then(Value::as_str) {
        Some(key_id) if !key_id.is_empty() => Ok((algorithm, key_id.to_owned())),
        _ => Err(InvalidJwt::KeyIdMissing),
    }
}

fn read_claims(all: Map<String, Value>) -> Result<(SpiffeId, Claims), InvalidJwt> {
    let id = match all.get("sub") {
        None => return Err(InvalidJwt::SubjectMissing),
        Some(Value::String(text)) if text.is_empty() => return Err(InvalidJwt::SubjectMissing),
        Some(Value::String(text)) => SpiffeId::parse(text)?,
        Some(_) => return Err(InvalidJwt::Claim("sub")),
    };
    let expires_at = date(&all, "exp")?.ok_or(InvalidJwt::ExpiryMissing)?;
    let claims = Claims {
        audience: audience(&all).ok_or(InvalidJwt::Claim("aud"))?,
        expires_at,
        not_before: date(&all, "nbf")?,
        issued_at: date(&all, "iat")?,
        all,
    };
    Ok((id, claims))
}

/// One string or an array (RFC 7519, 4.1.3); a token without an audience is valid for none.
fn audience(claims: &Map<String, Value>) -> Option<Vec<String>> {
    match claims.get("aud") {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(several)) => several
            .iter()
            .map(|a| a.as_str().map(str::to_owned))
            .collect(),
        Some(_) => None,
    }
}

/// A NumericDate (RFC 7519, section 2), in whole seconds.
fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, InvalidJwt> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let whole = value.as_u64();
    let seconds = whole.or_else(|| {
        let seconds = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
        Some(seconds.as_secs())
    });
    let seconds = seconds.ok_or(InvalidJwt::Claim(name))?;
    Ok(Some(UnixTime::from_secs(seconds)))
}
