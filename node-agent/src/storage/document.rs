//! What the two files on disk have in common: how secrets and bundles stand in their JSON, and what can be wrong with it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::{Bundle, UnixTime};
use countersign_transport::error::BoxError;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What is wrong with the content of a file. No secret is part of it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidContent {
    /// It is not the JSON of such a file. The error names line and column, and no text of the file but the keys' names.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A later program wrote it.
    #[error("version {0} is not one that this program knows")]
    Version(u32),
    /// One part is not what it should be.
    #[error("{part}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        source: BoxError,
    },
    /// Parts that don't fit together, or break a bound.
    #[error("{0}")]
    Inconsistent(String),
}

impl InvalidContent {
    /// Names the part that an error is about.
    pub(super) fn of<E: Into<BoxError>>(part: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Part {
            part,
            source: error.into(),
        }
    }
}

/// Text that is wiped when it is dropped.
pub(super) struct Secret(pub(super) Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JwtAuthorityPart {
    key_id: String,
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    tainted: bool,
}

impl From<&JwtAuthority> for JwtAuthorityPart {
    fn from(authority: &JwtAuthority) -> Self {
        Self {
            key_id: authority.key_id.clone(),
            public_key: STANDARD.encode(&authority.public_key),
            expires_at: authority.expires_at.map(UnixTime::as_secs),
            tainted: authority.tainted,
        }
    }
}

impl TryFrom<JwtAuthorityPart> for JwtAuthority {
    type Error = InvalidContent;

    fn try_from(part: JwtAuthorityPart) -> Result<Self, InvalidContent> {
        let public_key = STANDARD.decode(&part.public_key);
        Ok(Self {
            key_id: part.key_id,
            public_key: public_key.map_err(InvalidContent::of("JWT authority"))?,
            expires_at: part.expires_at.map(UnixTime::from_secs),
            tainted: part.tainted,
        })
    }
}

/// Puts a bundle together from what both files write in the same way; `x509` is the rest, with whether it is tainted.
pub(super) fn bundle(
    mut bundle: Bundle,
    sequence_number: u64,
    refresh_hint_seconds: Option<u64>,
    x509: impl IntoIterator<Item = Result<(CertificateDer<'static>, bool), InvalidContent>>,
    jwt: Vec<JwtAuthorityPart>,
) -> Result<Bundle, InvalidContent> {
    bundle.sequence_number = sequence_number;
    bundle.refresh_hint = refresh_hint_seconds.map(Duration::from_secs);
    for authority in x509 {
        let (der, tainted) = authority?;
        let authority = X509Authority::new(der).map_err(InvalidContent::of("bundle"))?;
        bundle
            .x509_authorities
            .push(authority.with_tainted(tainted));
    }
    for part in jwt {
        bundle.jwt_authorities.push(part.try_into()?);
    }
    Ok(bundle)
}
