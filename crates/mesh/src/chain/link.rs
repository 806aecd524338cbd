//! One link of a chain: a signed call (docs/call-chains.md, section 2).

use std::ops::Range;

use countersign_identity::{KeyId, SpiffeId};

use super::{Algorithm, ChainId};

/// What the signer of a link claims about the call: the payload, a CWT claims set (RFC 8392).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The callee, a SPIFFE ID with a path.
    pub aud: SpiffeId,
    /// The chain's deadline, in Unix seconds, below 2^53.
    pub exp: u64,
    /// When the link was made, in Unix seconds, below 2^53.
    pub iat: u64,
    /// The ID of this call, random and fresh for every attempt.
    pub cti: [u8; 16],
    /// How many links the chain may have at most, 1 to 16.
    pub max_hops: u8,
    /// How many further calls the callee and everything downstream of it may make.
    pub budget: u16,
    /// `METHOD SP path` of the request, the path as sent, without the query: 3 to 1,024 bytes.
    pub action: String,
}

/// The claims that only the first link of a chain has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The originator, a SPIFFE ID with a path.
    pub iss: SpiffeId,
    /// The chain's ID. It identifies a chain only together with `iss`, since another originator may choose the same bytes.
    pub chain: ChainId,
}

/// A decoded link. Its signature is well-formed but has not been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The signed payload.
    pub claims: Claims,
    /// The ID of the signing key, as claimed in the protected header.
    pub kid: KeyId,
    /// The signature algorithm, from the protected header.
    pub algorithm: Algorithm,
    /// Kept because signatures and chain hashes cover the bytes as received.
    pub(super) spans: ByteSpans,
}

/// The byte ranges of a link's parts in the encoded chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByteSpans {
    pub(super) link: Range<usize>,
    pub(super) protected: Range<usize>,
    pub(super) payload: Range<usize>,
    pub(super) signature: Range<usize>,
}
