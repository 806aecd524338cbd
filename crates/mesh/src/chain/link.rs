//! One link: a signed call.

use countersign_identity::{KeyId, SpiffeId};

use super::PrefixHash;

/// How a link is signed. The key implies it; no other algorithm exists in version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA with SHA-256 on P-256, COSE algorithm −7.
    Es256,
    /// ECDSA with SHA-384 on P-384, COSE algorithm −35.
    Es384,
}

/// What the signer of a link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The callee.
    pub aud: SpiffeId,
    /// The chain's deadline, in Unix seconds.
    pub exp: u64,
    /// When the link was made, in Unix seconds.
    pub iat: u64,
    /// The ID of this call, random and fresh for every attempt.
    pub cti: [u8; 16],
    /// The greatest length that the chain may reach, 1 to 16.
    pub max_hops: u8,
    /// How many further calls the callee and everything below it may make.
    pub budget: u16,
    /// `METHOD SP path` of the request.
    pub action: String,
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
    /// The hash over this link and all before it.
    pub prefix: PrefixHash,
    /// The link's place in the encoded chain.
    pub(super) span: (usize, usize),
}
