//! X.509-SVIDs on their way through the node agent: from the server's answer to the form in which workloads get them.

use bytes::Bytes;
use countersign_identity::svid::SvidError;
use countersign_identity::verify::verify_svid;
use countersign_identity::{Bundle, PrivateKey, SpiffeId, UnixTime, X509Svid};
use countersign_proto::convert::svid::{InvalidReceivedSvid, ReceivedSvid};
use countersign_proto::spire::api::types;

/// Why the server's answer is not an SVID for the key that was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusableSvid {
    /// The answer has none.
    #[error("the SVID is missing")]
    Missing,
    /// The message is malformed.
    #[error(transparent)]
    Message(#[from] InvalidReceivedSvid),
    /// The chain breaks a rule of the X509-SVID standard, or is for another key.
    #[error(transparent)]
    Chain(#[from] SvidError),
    /// The certificate names another workload than the message.
    #[error("the certificate is for {certificate} and not for {message}")]
    OtherId {
        /// The ID in the certificate.
        certificate: SpiffeId,
        /// The ID in the message.
        message: SpiffeId,
    },
}

/// Puts a chain from the server together with the key that never left this node.
pub(crate) fn from_server(
    svid: Option<types::X509svid>,
    key: PrivateKey,
) -> Result<X509Svid, UnusableSvid> {
    let ReceivedSvid {
        id,
        chain,
        expires_at: _,
    } = svid.ok_or(UnusableSvid::Missing)?.try_into()?;
    let svid = X509Svid::new(chain, key)?;
    if *svid.id() != id {
        return Err(UnusableSvid::OtherId {
            certificate: svid.id().clone(),
            message: id,
        });
    }
    Ok(svid)
}

/// An SVID in the form of the Workload API.
#[derive(Debug)]
pub struct ServedSvid {
    svid: X509Svid,
    chain: Bytes,
    /// PKCS#8; wiped when the last reader drops it.
    key: Bytes,
}

impl ServedSvid {
    /// Encodes an SVID once for all callers.
    #[must_use]
    pub fn new(svid: X509Svid) -> Self {
        let chain = svid.chain_der().into();
        let key = Bytes::from_owner(svid.key().to_pkcs8());
        Self { svid, chain, key }
    }

    pub(crate) const fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// The chain, leaf first, as one piece of DER.
    pub(crate) const fn chain(&self) -> &Bytes {
        &self.chain
    }

    /// The private key in PKCS#8 DER.
    pub(crate) const fn key(&self) -> &Bytes {
        &self.key
    }
}

/// The authorities of a bundle that are not tainted.
pub(crate) struct UntaintedAuthorities(Bundle);

impl UntaintedAuthorities {
    pub(crate) fn of(bundle: &Bundle) -> Self {
        let mut untainted = bundle.clone();
        untainted
            .x509_authorities
            .retain(|authority| !authority.is_tainted());
        Self(untainted)
    }

    /// Whether the SVID chains to one of them.
    pub(crate) fn vouch_for(&self, svid: &X509Svid, now: UnixTime) -> bool {
        svid.chain()
            .split_first()
            .is_some_and(|(leaf, rest)| verify_svid(leaf, rest, &self.0, now).is_ok())
    }
}
