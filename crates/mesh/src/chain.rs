//! The chain of calls: what stands in it, and its one encoding.
//!
//! A [`Chain`] is *decoded*, not verified: it has the only form that is allowed and nothing more is known about it.
//! `docs/call-chains.md`, sections 2 and 4.

pub mod algorithm;
mod cbor;
pub mod certs;
pub mod codec;
pub mod field;
mod key;
pub mod link;

use std::fmt;
use std::ops::Range;

use countersign_identity::{KeyId, SpiffeId};

pub use algorithm::Algorithm;
pub use certs::CertSet;
pub use field::{Carrier, FieldValue};
pub(crate) use key::LinkKey;
pub use link::{ChainStart, Claims, Link};

/// The most links that a chain may have.
pub const MAX_LINKS: usize = 16;
/// The most bytes that an encoded chain may have.
pub const MAX_CHAIN_LEN: usize = 6_000;

/// Why bytes are not a chain, or not the certificates that come with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) &'static str);

/// The ID that an originator gives to one piece of work. Unique only together with the originator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId([u8; 16]);

impl ChainId {
    /// From the bytes of the claim.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the claim.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ChainId {
    /// 32 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash over the first i links as they were encoded, signatures included; 32 zero bytes for none.
pub type PrefixHash = [u8; 32];

/// The prefix hash before the first link.
pub(crate) const NO_LINKS: PrefixHash = [0; 32];

/// A decoded chain of 1 to [`MAX_LINKS`] links. Nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    bytes: Vec<u8>,
    originator: SpiffeId,
    id: ChainId,
    links: Vec<Link>,
}

impl Chain {
    /// Reads a chain, accepting only what [`codec`] would write.
    ///
    /// # Errors
    /// The first rule of section 2 that the bytes break.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, Malformed> {
        codec::decode(bytes)
    }

    /// The encoded chain.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Who is said to have signed the first link.
    #[must_use]
    pub fn originator(&self) -> &SpiffeId {
        &self.originator
    }

    /// The ID that the originator gave to the piece of work.
    #[must_use]
    pub fn id(&self) -> ChainId {
        self.id
    }

    /// The links, at least one.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The hop: how many links there are, 1 to [`MAX_LINKS`].
    #[must_use]
    pub fn hop(&self) -> u8 {
        u8::try_from(self.links.len()).unwrap_or(u8::MAX)
    }

    /// The originator and every callee but the last: who the call went through before it came here.
    pub fn via(&self) -> impl DoubleEndedIterator<Item = &SpiffeId> {
        let callees = self.links.iter().map(|link| &link.claims.aud);
        std::iter::once(&self.originator).chain(callees.take(self.links.len().saturating_sub(1)))
    }

    /// Who is said to have signed the link at `index`: the originator, or the callee of the link before.
    #[must_use]
    pub fn signer(&self, index: usize) -> Option<&SpiffeId> {
        match index.checked_sub(1) {
            None => Some(&self.originator),
            Some(before) => self.links.get(before).map(|link| &link.claims.aud),
        }
    }

    /// The last link.
    #[must_use]
    pub fn last(&self) -> Option<&Link> {
        self.links.last()
    }

    /// The key that the last link names.
    #[must_use]
    pub(crate) fn last_kid(&self) -> Option<KeyId> {
        self.last().map(|link| link.kid)
    }

    /// The chain written anew from what was read: always the same bytes, since nothing else is accepted.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let start = ChainStart {
            iss: self.originator.clone(),
            chain: self.id,
        };
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for (i, link) in self.links.iter().enumerate() {
            let payload = codec::encode_claims(&link.claims, (i == 0).then_some(&start));
            let header = codec::encode_header(link.algorithm, &link.kid);
            bytes = codec::append(
                &bytes,
                i,
                &codec::encode_link(&header, &payload, self.signature(i)),
            );
        }
        bytes
    }

    /// The link at `index` as it is encoded.
    pub(crate) fn link_bytes(&self, index: usize) -> &[u8] {
        self.part(index, |spans| spans.link.clone())
    }

    /// The signature of the link at `index`, r ‖ s.
    pub(crate) fn signature(&self, index: usize) -> &[u8] {
        self.part(index, |spans| spans.signature.clone())
    }

    /// What the signature of the link at `index` covers; `before` is the hash over all links before it.
    pub(crate) fn to_be_signed(&self, index: usize, before: &PrefixHash) -> Vec<u8> {
        let protected = self.part(index, |spans| spans.protected.clone());
        let payload = self.part(index, |spans| spans.payload.clone());
        codec::to_be_signed(before, protected, payload)
    }

    fn part(&self, index: usize, range: impl FnOnce(&link::ByteSpans) -> Range<usize>) -> &[u8] {
        self.links
            .get(index)
            .and_then(|link| self.bytes.get(range(&link.spans)))
            .unwrap_or_default()
    }

    /// The hashes over the first link, the first two and so on, without the one over the whole chain.
    pub(crate) fn prefixes(&self) -> Vec<PrefixHash> {
        let earlier = self.links.len().saturating_sub(1);
        let mut prefixes = Vec::with_capacity(earlier);
        let mut hash = NO_LINKS;
        for index in 0..earlier {
            hash = codec::prefix_after(&hash, self.link_bytes(index));
            prefixes.push(hash);
        }
        prefixes
    }
}
