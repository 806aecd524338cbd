//! JWT-SVIDs: signing them, and verifying them against the bundle of the subject's trust domain.
//!
//! JWT-SVID standard, over compact JWS (RFC 7515) with the claims of RFC 7519. [`JwtSigner`] makes them as SPIRE does;
//! [`Jwt`] reads one and verifies it. Both are pure: the time is an argument. Keys as JWKS documents are
//! `bundle::document`'s business.

mod algorithm;
mod issue;
mod json;
mod verify;

pub use algorithm::Algorithm;
pub use issue::{IssuedJwt, JwtIssueError, JwtSigner, JwtTemplate, random_key_id};
pub use verify::{InvalidJwt, Jwt, VerifiedJwt, verify_jwt};

/// The longest token that is parsed or signed, in bytes: it must fit into an HTTP header.
pub const MAX_JWT_LEN: usize = 16 * 1024;

/// The clock skew between issuer and verifier that SPIFFE's libraries tolerate.
pub const LEEWAY: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
mod tests;
