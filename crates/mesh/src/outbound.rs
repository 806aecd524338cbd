//! The caller's side: pays from the ledger, signs the next link, and refuses what the callee would refuse.
//!
//! `docs/call-chains.md`, sections 5 and 8.

use std::sync::Arc;

use countersign_identity::key::KeyError;
use countersign_identity::{KeyId, KeyType, SigningKey, SpiffeId, UnixTime};

use crate::chain::{Carrier, ChainId};
use crate::context::Context;
use crate::decide::Moment;
use crate::policy::Policy;
use crate::refusal::{Reason, Refusal};

/// One SVID generation, as far as it signs links.
#[derive(Clone, Debug)]
pub struct SigningIdentity {
    id: SpiffeId,
    kid: KeyId,
    key: Arc<dyn SigningKey>,
}

/// The SVID's key cannot sign links.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} has a key of type {key_type}, but call chains are signed with ec-p256 or ec-p384: set workload_x509_svid_key_type of the node agent"
)]
pub struct UnusableKey {
    /// Whose key it is.
    pub id: SpiffeId,
    /// What kind it is.
    pub key_type: KeyType,
}

impl SigningIdentity {
    /// The identity that signs as `id` with its SVID's key.
    ///
    /// # Errors
    /// If the key is not on P-256 or P-384.
    pub fn new(id: SpiffeId, key: Arc<dyn SigningKey>) -> Result<Self, UnusableKey> {
        let kid = key.kid();
        Ok(Self { id, kid, key })
    }

    /// Who signs.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// With which key.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.kid
    }
}

/// What a call comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A context: of an inbound request, or one that [`start`] opened.
    Context(&'a Context),
    /// Nothing. A workload with the right to originate starts a chain for this one call; any other is refused.
    Nothing,
    /// The handler of a request that came without a chain, which may not call on.
    Chainless,
}

/// How much of the ledger a callee gets for calls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grant {
    /// What the rule's `grant` says, else the default split.
    #[default]
    ByRule,
    /// This much, or what is left if that is less.
    Exactly(u16),
}

/// A call that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// The workload that is called; TLS accepts exactly this ID.
    pub callee: &'a SpiffeId,
    /// The method.
    pub method: &'a str,
    /// The path as it will be sent, without the query.
    pub path: &'a str,
    /// What the callee gets.
    pub grant: Grant,
}

/// Why a call was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The callee would refuse it, or this workload may not make it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key did not sign.
    #[error("could not sign a link as {id}: {source}")]
    Key {
        /// Who was to sign.
        id: SpiffeId,
        /// Why it failed.
        source: KeyError,
    },
    /// The system gave no random numbers.
    #[error(
        "could not draw random bytes for the ID of a call: is the system's random source working?"
    )]
    Random,
}

/// Opens a context for one piece of work: all its calls share chain ID, deadline and budget.
///
/// # Errors
/// `origination_denied` without an originate rule for this workload.
#[expect(clippy::todo, reason = "the signature comes first")]
pub fn start(
    _policy: &Policy,
    _identity: &SigningIdentity,
    _at: Moment,
) -> Result<Context, NotSent> {
    todo!()
}

/// Pays for one attempt of a call and signs its link. Every attempt needs its own.
///
/// # Errors
/// [`NotSent::Refused`] with the reason that the callee would give; nothing is then paid.
#[expect(clippy::todo, reason = "the signature comes first")]
pub fn prepare(
    _policy: &Policy,
    _identity: &SigningIdentity,
    _origin: Origin<'_>,
    _call: &CallRequest<'_>,
    _at: Moment,
) -> Result<OutgoingCall, NotSent> {
    todo!()
}

/// A paid and signed call, ready to be sent once.
#[derive(Debug)]
pub struct OutgoingCall {
    context: Context,
}

impl OutgoingCall {
    /// The value of the field that carries the chain ([`Carrier::chain_field`]).
    #[must_use]
    pub fn chain_value(&self, _carrier: Carrier) -> String {
        String::new()
    }

    /// The value of the field that carries the certificates ([`Carrier::certs_field`]); `None` if there is no earlier
    /// signer.
    #[must_use]
    pub fn certs_value(&self, _carrier: Carrier) -> Option<Arc<str>> {
        None
    }

    /// The chain's ID.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.context.chain_id()
    }

    /// The length of the chain that is sent.
    #[must_use]
    pub fn hop(&self) -> u8 {
        self.context.hop()
    }

    /// When the call has to be over.
    #[must_use]
    pub fn deadline(&self) -> UnixTime {
        self.context.deadline()
    }

    /// How many calls the callee may make.
    #[must_use]
    pub fn granted(&self) -> u16 {
        0
    }

    /// The callee refused: takes the grant back, once, if the reason says that the call was not accepted.
    pub fn refused(&self, _reason: Reason) {}

    /// The context that paid, a new one if the call started a chain.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}
