//! One link: a signed call.

use std::ops::Range;

use countersign_identity::{KeyId, SpiffeId};

use super::{Algorithm, ChainId};

/// What the signer of a link says about the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The callee. It has a path.
    pub aud: SpiffeId,
    /// The chain's deadline, in Unix seconds, below 2^53.
    pub exp: u64,
    /// When the link was made, in Unix seconds, below 2^53.
    pub iat: u64,
    /// The ID of this call, random and fresh for every attempt.
    pub cti: [u8; 16],
    /// The greatest length that the chain may reach, 1 to 16.
    pub max_hops: u8,
    /// How many further calls the callee and everything downstream of it may make.
    pub budget: u16,
    /// `METHOD SP path` of the request, the path as sent, without the query: 3 to 1,024 bytes.
    pub action: String,
}

/// What only the first link of a chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The originator. It has a path.
    pub iss: SpiffeId,
    /// The ID of the piece of work, unique together with the originator.
    pub chain: ChainId,
}

/// A decoded link. Its signature has the right form; whether it holds is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What is signed.
    pub claims: Claims,
    /// The key that is said to have signed.
    pub kid: KeyId,
    /// How.
    pub algorithm: Algorithm,
    /// Where the parts of this link stand in the encoded chain.
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
