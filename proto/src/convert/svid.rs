//! SVIDs as a server sends them: certificates without a key, which never left the node, and tokens.

use bytes::Bytes;
use countersign_identity::jwt::MAX_JWT_LEN;
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::verify::{MAX_CERTIFICATE_LEN, MAX_CHAIN_LEN};
use countersign_identity::{SignedSvid, SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::spire::api::types;

/// An X.509-SVID without its key, as it was received. Nothing is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedSvid {
    /// Whose it is, as the server says.
    pub id: SpiffeId,
    /// The leaf first, without the root; at least one.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf expires, as the server says.
    pub expires_at: UnixTime,
}

/// Why a message is no X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReceivedSvid {
    /// There is no SPIFFE ID.
    #[error("SPIFFE ID is missing")]
    IdMissing,
    /// The SPIFFE ID.
    #[error("invalid SPIFFE ID: {0}")]
    Id(#[from] InvalidId),
    /// There is no certificate.
    #[error("certificate chain is empty")]
    ChainEmpty,
    /// More than [`MAX_CHAIN_LEN`] certificates.
    #[error("certificate chain has more than {MAX_CHAIN_LEN} certificates")]
    ChainTooLong,
    /// A certificate of more than [`MAX_CERTIFICATE_LEN`] bytes.
    #[error("certificate is larger than {MAX_CERTIFICATE_LEN} bytes")]
    CertificateTooLarge,
    /// The expiry is before 1970.
    #[error("expiry is negative")]
    ExpiresAt,
}

impl TryFrom<types::X509svid> for ReceivedSvid {
    type Error = InvalidReceivedSvid;

    fn try_from(svid: types::X509svid) -> Result<Self, InvalidReceivedSvid> {
        // Which SVID it is for, and so which hint, is known to whoever asked.
        let types::X509svid {
            cert_chain,
            id,
            expires_at,
            hint: _,
        } = svid;
        let id = id.ok_or(InvalidReceivedSvid::IdMissing)?;
        if cert_chain.is_empty() {
            return Err(InvalidReceivedSvid::ChainEmpty);
        }
        if cert_chain.len() > MAX_CHAIN_LEN {
            return Err(InvalidReceivedSvid::ChainTooLong);
        }
        if cert_chain.iter().any(|der| der.len() > MAX_CERTIFICATE_LEN) {
            return Err(InvalidReceivedSvid::CertificateTooLarge);
        }
        let expires_at = u64::try_from(expires_at).map_err(|_| InvalidReceivedSvid::ExpiresAt)?;
        Ok(Self {
            id: id.try_into()?,
            chain: cert_chain.iter().map(|der| der.to_vec().into()).collect(),
            expires_at: UnixTime::from_secs(expires_at),
        })
    }
}

impl From<&SignedSvid> for types::X509svid {
    /// Without a hint, as SPIRE sends it.
    fn from(svid: &SignedSvid) -> Self {
        let SignedSvid {
            id,
            chain,
            serial: _,
            expires_at,
        } = svid;
        Self {
            cert_chain: chain
                .iter()
                .map(|der| Bytes::copy_from_slice(der))
                .collect(),
            id: Some(id.into()),
            expires_at: expires_at.as_i64(),
            hint: String::new(),
        }
    }
}

/// A signed JWT-SVID. Nothing is verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedJwt {
    /// Whose it is, as the server says.
    pub id: SpiffeId,
    /// The compact JWS. Whoever has it is taken for the subject.
    pub token: String,
    /// When it was signed, as the server says.
    pub issued_at: UnixTime,
    /// When it expires, as the server says.
    pub expires_at: UnixTime,
}

impl std::fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedJwt")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl From<&SignedJwt> for types::Jwtsvid {
    /// Without a hint, as SPIRE sends it.
    fn from(svid: &SignedJwt) -> Self {
        let SignedJwt {
            id,
            token,
            issued_at,
            expires_at,
        } = svid;
        Self {
            token: token.clone(),
            id: Some(id.into()),
            expires_at: expires_at.as_i64(),
            issued_at: issued_at.as_i64(),
            hint: String::new(),
        }
    }
}

/// Why a message is no JWT-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignedJwt {
    /// There is no SPIFFE ID.
    #[error("SPIFFE ID is missing")]
    IdMissing,
    /// The SPIFFE ID.
    #[error("invalid SPIFFE ID: {0}")]
    Id(#[from] InvalidId),
    /// There is no token.
    #[error("token is empty")]
    TokenMissing,
    /// More than [`MAX_JWT_LEN`] bytes.
    #[error("token is longer than {MAX_JWT_LEN} bytes")]
    TokenTooLong,
    /// One of the times is not there, or before 1970.
    #[error("times of issue and expiry must be positive")]
    Times,
}

impl TryFrom<types::Jwtsvid> for SignedJwt {
    type Error = InvalidSignedJwt;

    fn try_from(svid: types::Jwtsvid) -> Result<Self, InvalidSignedJwt> {
        // Which SVID it is for, and so which hint, is known to whoever asked.
        let types::Jwtsvid {
            token,
            id,
            expires_at,
            issued_at,
            hint: _,
        } = svid;
        let id = id.ok_or(InvalidSignedJwt::IdMissing)?;
        if token.is_empty() {
            return Err(InvalidSignedJwt::TokenMissing);
        }
        if token.len() > MAX_JWT_LEN {
            return Err(InvalidSignedJwt::TokenTooLong);
        }
        let time = |seconds: i64| match u64::try_from(seconds) {
            Ok(0) | Err(_) => Err(InvalidSignedJwt::Times),
            Ok(seconds) => Ok(UnixTime::from_secs(seconds)),
        };
        Ok(Self {
            id: id.try_into()?,
            token,
            issued_at: time(issued_at)?,
            expires_at: time(expires_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svid() -> SignedSvid {
        SignedSvid {
            id: SpiffeId::parse("spiffe://td/a").unwrap(),
            chain: vec![vec![1, 2].into(), vec![3].into()],
            serial: "1".into(),
            expires_at: UnixTime::from_secs(7),
        }
    }

    #[test]
    fn an_svid_survives_the_wire() {
        let SignedSvid {
            id,
            chain,
            serial: _,
            expires_at,
        } = svid();
        assert_eq!(
            ReceivedSvid::try_from(types::X509svid::from(&svid())),
            Ok(ReceivedSvid {
                id,
                chain,
                expires_at
            })
        );
    }

    #[test]
    fn each_bad_part_is_refused() {
        let refused = |corrupt: fn(&mut types::X509svid)| {
            let mut wire = types::X509svid::from(&svid());
            corrupt(&mut wire);
            ReceivedSvid::try_from(wire).unwrap_err()
        };
        assert_eq!(refused(|s| s.id = None), InvalidReceivedSvid::IdMissing);
        assert_eq!(
            refused(|s| s.id.as_mut().unwrap().path = "a".into()),
            InvalidReceivedSvid::Id(InvalidId::PathLeadingSlash)
        );
        assert_eq!(
            refused(|s| s.cert_chain.clear()),
            InvalidReceivedSvid::ChainEmpty
        );
        assert_eq!(
            refused(|s| s.cert_chain = vec![Bytes::new(); MAX_CHAIN_LEN + 1]),
            InvalidReceivedSvid::ChainTooLong
        );
        assert_eq!(
            refused(|s| s.cert_chain[0] = vec![0; MAX_CERTIFICATE_LEN + 1].into()),
            InvalidReceivedSvid::CertificateTooLarge
        );
        assert_eq!(
            refused(|s| s.expires_at = -1),
            InvalidReceivedSvid::ExpiresAt
        );
    }

    fn jwt() -> SignedJwt {
        SignedJwt {
            id: SpiffeId::parse("spiffe://td/a").unwrap(),
            token: "a.b.c".into(),
            issued_at: UnixTime::from_secs(7),
            expires_at: UnixTime::from_secs(8),
        }
    }

    #[test]
    fn a_token_survives_the_wire_and_does_not_show() {
        assert_eq!(SignedJwt::try_from(types::Jwtsvid::from(&jwt())), Ok(jwt()));
        assert!(!format!("{:?}", jwt()).contains("a.b.c"));
    }

    #[test]
    fn each_bad_part_of_a_token_is_refused() {
        let refused = |corrupt: fn(&mut types::Jwtsvid)| {
            let mut wire = types::Jwtsvid::from(&jwt());
            corrupt(&mut wire);
            SignedJwt::try_from(wire).unwrap_err()
        };
        assert_eq!(refused(|s| s.id = None), InvalidSignedJwt::IdMissing);
        assert_eq!(
            refused(|s| s.id.as_mut().unwrap().path = "a".into()),
            InvalidSignedJwt::Id(InvalidId::PathLeadingSlash)
        );
        assert_eq!(refused(|s| s.token.clear()), InvalidSignedJwt::TokenMissing);
        assert_eq!(
            refused(|s| s.token = "a".repeat(MAX_JWT_LEN + 1)),
            InvalidSignedJwt::TokenTooLong
        );
        assert_eq!(refused(|s| s.issued_at = 0), InvalidSignedJwt::Times);
        assert_eq!(refused(|s| s.expires_at = -1), InvalidSignedJwt::Times);
    }
}
