//! Bundles and their authorities.

use std::time::Duration;

use bytes::Bytes;
use countersign_identity::bundle::{InvalidAuthority, JwtAuthority, X509Authority};
use countersign_identity::csr::PublicKey;
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{Bundle, TrustDomain, UnixTime};

use crate::spire::api::types;

/// The most authorities of each kind that one bundle may have.
pub const MAX_AUTHORITIES: usize = 1_024;
/// The longest key ID, in bytes.
pub const MAX_KEY_ID_LEN: usize = 1_024;

/// Why a key is not a JWT authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJwtAuthority {
    /// It has no ID.
    #[error("missing key ID")]
    KeyIdMissing,
    /// Its ID is longer than [`MAX_KEY_ID_LEN`].
    #[error("key ID is longer than {MAX_KEY_ID_LEN} bytes")]
    KeyIdTooLong,
    /// Its public key is not a SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    #[error("public key is not a SubjectPublicKeyInfo in DER")]
    PublicKey,
    /// Its expiry is before 1970.
    #[error("expiry is negative")]
    ExpiresAt,
}

/// Why a message is not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBundle {
    /// Its trust domain is neither a name nor a SPIFFE ID.
    #[error("invalid trust domain: {0}")]
    TrustDomain(#[from] InvalidId),
    /// An X.509 authority is not exactly one CA certificate in DER.
    #[error("unable to parse X.509 authority: {0}")]
    X509Authority(#[from] InvalidAuthority),
    /// A JWT authority lacks a part, or a part is malformed.
    #[error("unable to parse JWT authority: {0}")]
    JwtAuthority(#[from] InvalidJwtAuthority),
    /// More than [`MAX_AUTHORITIES`] of one kind.
    #[error("more than {MAX_AUTHORITIES} authorities of one kind")]
    TooMany,
    /// Its refresh hint is negative.
    #[error("refresh hint is negative")]
    RefreshHint,
}

impl TryFrom<types::X509Certificate> for X509Authority {
    type Error = InvalidAuthority;

    fn try_from(certificate: types::X509Certificate) -> Result<Self, InvalidAuthority> {
        let types::X509Certificate { asn1, tainted } = certificate;
        Ok(Self::new(asn1.to_vec().into())?.with_tainted(tainted))
    }
}

impl From<&X509Authority> for types::X509Certificate {
    fn from(authority: &X509Authority) -> Self {
        Self {
            asn1: Bytes::copy_from_slice(authority.der()),
            tainted: authority.is_tainted(),
        }
    }
}

impl TryFrom<types::JwtKey> for JwtAuthority {
    type Error = InvalidJwtAuthority;

    fn try_from(key: types::JwtKey) -> Result<Self, InvalidJwtAuthority> {
        let types::JwtKey {
            public_key,
            key_id,
            expires_at,
            tainted,
        } = key;
        if key_id.is_empty() {
            return Err(InvalidJwtAuthority::KeyIdMissing);
        }
        if key_id.len() > MAX_KEY_ID_LEN {
            return Err(InvalidJwtAuthority::KeyIdTooLong);
        }
        PublicKey::from_spki(&public_key).map_err(|_| InvalidJwtAuthority::PublicKey)?;
        // Proto3 sends no difference between 0 and unset: a key without an expiry.
        let expires_at = match u64::try_from(expires_at) {
            Ok(0) => None,
            Ok(seconds) => Some(UnixTime::from_secs(seconds)),
            Err(_) => return Err(InvalidJwtAuthority::ExpiresAt),
        };
        Ok(Self {
            key_id,
            public_key: public_key.to_vec(),
            expires_at,
            tainted,
        })
    }
}

impl From<&JwtAuthority> for types::JwtKey {
    fn from(authority: &JwtAuthority) -> Self {
        let JwtAuthority {
            key_id,
            public_key,
            expires_at,
            tainted,
        } = authority;
        Self {
            public_key: Bytes::copy_from_slice(public_key),
            key_id: key_id.clone(),
            expires_at: expires_at.map_or(0, UnixTime::as_i64),
            tainted: *tainted,
        }
    }
}

impl TryFrom<types::Bundle> for Bundle {
    type Error = InvalidBundle;

    /// WIT authorities are ignored: nothing here uses them yet.
    fn try_from(bundle: types::Bundle) -> Result<Self, InvalidBundle> {
        let types::Bundle {
            trust_domain,
            x509_authorities,
            jwt_authorities,
            refresh_hint,
            sequence_number,
            wit_authorities: _,
        } = bundle;
        if x509_authorities.len().max(jwt_authorities.len()) > MAX_AUTHORITIES {
            return Err(InvalidBundle::TooMany);
        }
        // Unset, as for a key's expiry: whoever polls the bundle falls back to a default.
        let refresh_hint = match u64::try_from(refresh_hint) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => return Err(InvalidBundle::RefreshHint),
        };
        Ok(Self {
            trust_domain: TrustDomain::from_name_or_id(&trust_domain)?,
            x509_authorities: x509_authorities
                .into_iter()
                .map(X509Authority::try_from)
                .collect::<Result<_, _>>()?,
            jwt_authorities: jwt_authorities
                .into_iter()
                .map(JwtAuthority::try_from)
                .collect::<Result<_, _>>()?,
            refresh_hint,
            sequence_number,
        })
    }
}

impl From<&Bundle> for types::Bundle {
    fn from(bundle: &Bundle) -> Self {
        let Bundle {
            trust_domain,
            x509_authorities,
            jwt_authorities,
            refresh_hint,
            sequence_number,
        } = bundle;
        let seconds = refresh_hint.map_or(0, |hint| hint.as_secs());
        Self {
            trust_domain: trust_domain.to_string(),
            x509_authorities: x509_authorities.iter().map(Into::into).collect(),
            jwt_authorities: jwt_authorities.iter().map(Into::into).collect(),
            refresh_hint: i64::try_from(seconds).unwrap_or(i64::MAX),
            sequence_number: *sequence_number,
            wit_authorities: Vec::new(),
        }
    }
}

/// Returns only the fields set in the mask, and always the trust domain. Without a mask: everything (wire contract, A.7).
#[must_use]
pub fn masked(bundle: types::Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let Some(mask) = mask else { return bundle };
    let types::BundleMask {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
        wit_authorities,
    } = *mask;
    let mut kept = types::Bundle {
        trust_domain: bundle.trust_domain,
        ..Default::default()
    };
    if x509_authorities {
        kept.x509_authorities = bundle.x509_authorities;
    }
    if jwt_authorities {
        kept.jwt_authorities = bundle.jwt_authorities;
    }
    if refresh_hint {
        kept.refresh_hint = bundle.refresh_hint;
    }
    if sequence_number {
        kept.sequence_number = bundle.sequence_number;
    }
    if wit_authorities {
        kept.wit_authorities = bundle.wit_authorities;
    }
    kept
}

#[cfg(test)]
mod tests {
    use countersign_identity::issue::{Subject, self_signed_authority};
    use countersign_identity::{KeyType, PrivateKey, SigningKey as _};

    use super::*;

    fn wire() -> types::Bundle {
        let td = TrustDomain::new("td").unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let authority = self_signed_authority(
            &td,
            &Subject::authority(),
            &key,
            Duration::from_secs(60),
            UnixTime::from_secs(1_800_000_000),
        )
        .unwrap();
        types::Bundle {
            trust_domain: "td".into(),
            x509_authorities: vec![types::X509Certificate {
                asn1: Bytes::copy_from_slice(&authority),
                tainted: true,
            }],
            jwt_authorities: vec![types::JwtKey {
                public_key: Bytes::copy_from_slice(key.spki()),
                key_id: "kid".into(),
                expires_at: 8,
                tainted: true,
            }],
            refresh_hint: 300,
            sequence_number: 4,
            wit_authorities: vec![],
        }
    }

    #[test]
    fn a_bundle_survives_the_wire() {
        let bundle = Bundle::try_from(wire()).unwrap();
        assert!(bundle.x509_authorities[0].is_tainted());
        assert_eq!(types::Bundle::from(&bundle), wire_of(&bundle));
        assert_eq!(Bundle::try_from(wire_of(&bundle)), Ok(bundle));
    }

    fn wire_of(bundle: &Bundle) -> types::Bundle {
        types::Bundle {
            x509_authorities: bundle.x509_authorities.iter().map(Into::into).collect(),
            jwt_authorities: bundle.jwt_authorities.iter().map(Into::into).collect(),
            ..wire()
        }
    }

    #[test]
    fn each_bad_part_is_refused() {
        let refused = |corrupt: fn(&mut types::Bundle)| {
            let mut bundle = wire();
            corrupt(&mut bundle);
            Bundle::try_from(bundle).unwrap_err()
        };
        let jwt = InvalidBundle::JwtAuthority;
        assert!(matches!(
            refused(|b| b.trust_domain = "T".into()),
            InvalidBundle::TrustDomain(InvalidId::TrustDomainChar)
        ));
        assert!(matches!(
            refused(|b| b.x509_authorities[0].asn1 = "no".into()),
            InvalidBundle::X509Authority(InvalidAuthority::Malformed(_))
        ));
        assert!(matches!(
            refused(|b| {
                let twice = [&b.x509_authorities[0].asn1[..]; 2].concat();
                b.x509_authorities[0].asn1 = twice.into();
            }),
            InvalidBundle::X509Authority(InvalidAuthority::Malformed(_))
        ));
        assert_eq!(
            refused(|b| b.jwt_authorities[0].public_key = "no".into()),
            jwt(InvalidJwtAuthority::PublicKey)
        );
        assert_eq!(
            refused(|b| b.jwt_authorities[0].key_id.clear()),
            jwt(InvalidJwtAuthority::KeyIdMissing)
        );
        assert_eq!(
            refused(|b| b.jwt_authorities[0].key_id = "k".repeat(1025)),
            jwt(InvalidJwtAuthority::KeyIdTooLong)
        );
        assert_eq!(
            refused(|b| b.jwt_authorities[0].expires_at = -1),
            jwt(InvalidJwtAuthority::ExpiresAt)
        );
        assert_eq!(refused(|b| b.refresh_hint = -1), InvalidBundle::RefreshHint);
        assert_eq!(
            refused(|b| b.x509_authorities = vec![b.x509_authorities[0].clone(); 1025]),
            InvalidBundle::TooMany
        );
    }

    #[test]
    fn a_mask_keeps_what_it_names_and_the_trust_domain() {
        let whole = wire();
        assert_eq!(masked(whole.clone(), None), whole);
        let bare = types::Bundle {
            trust_domain: "td".into(),
            ..Default::default()
        };
        assert_eq!(
            masked(whole.clone(), Some(&types::BundleMask::default())),
            bare
        );
        let mask = types::BundleMask {
            sequence_number: true,
            ..Default::default()
        };
        let want = types::Bundle {
            sequence_number: 4,
            ..bare
        };
        assert_eq!(masked(whole, Some(&mask)), want);
    }
}
