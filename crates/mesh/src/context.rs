//! What a handler holds: the chain that led to it and the ledger of what it may still spend.

use std::num::NonZeroU16;
use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};

use crate::chain::ChainId;
use crate::decide::Moment;
use crate::outbound::Grant;
use crate::refusal::Refusal;

/// One workload's part in a piece of work. All clones share one ledger.
///
/// It comes from a [`Permit`](crate::Permit), or from [`outbound::start`](crate::outbound::start) for an originator.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    holder: SpiffeId,
    originator: SpiffeId,
    chain_id: ChainId,
    deadline: UnixTime,
    max_hops: u8,
}

impl Context {
    /// The workload whose context this is.
    #[must_use]
    pub fn holder(&self) -> &SpiffeId {
        &self.0.holder
    }

    /// Who started the piece of work.
    #[must_use]
    pub fn originator(&self) -> &SpiffeId {
        &self.0.originator
    }

    /// The ID of the piece of work, unique together with the originator.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.0.chain_id
    }

    /// How many calls led here; 0 at the originator.
    #[must_use]
    pub fn hop(&self) -> u8 {
        0
    }

    /// The effective hop limit of the chain.
    #[must_use]
    pub fn max_hops(&self) -> u8 {
        self.0.max_hops
    }

    /// When the piece of work has to be done: from this second on nothing may be called.
    #[must_use]
    pub fn deadline(&self) -> UnixTime {
        self.0.deadline
    }

    /// Everyone in the chain, the originator first and the holder last.
    pub fn members(&self) -> impl Iterator<Item = &SpiffeId> {
        std::iter::once(&self.0.originator)
    }

    /// How many calls this context may still make or hand on.
    #[must_use]
    pub fn rest(&self) -> u16 {
        0
    }

    /// The grant that divides what is left into `shares` equal calls, rounded down. A share pays for its call first.
    #[must_use]
    pub fn split(&self, shares: NonZeroU16) -> Grant {
        let _ = shares;
        Grant::ByRule
    }

    /// Checks the signature of the last link, if it still waits. Making a call does so by itself.
    ///
    /// # Errors
    /// `chain_signature_invalid`; then the inbound exchange has to end too, and nothing more comes of this context.
    pub fn check_signature(&self, _at: Moment) -> Result<(), Refusal> {
        Ok(())
    }

    /// Has `hook` called once if the late signature check fails, from whatever thread finds out. The layer ends the
    /// inbound exchange in it. A hook that is set after the failure is called at once; a second hook is ignored.
    pub fn on_late_failure(&self, hook: impl FnOnce() + Send + 'static) {
        let _ = hook;
    }
}
