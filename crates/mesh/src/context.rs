//! What a handler holds: the chain that led to it and the ledger of what it may still spend.

mod ledger;

use std::fmt;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, OnceLock};

use countersign_identity::{Now, SpiffeId, UnixTime};

pub(crate) use self::ledger::Ledger;

use crate::chain::{CertSet, Chain, ChainId, NO_LINKS, PrefixHash, codec};
use crate::limits::{PeerState, Presented, lock};
use crate::refusal::{Reason, Refusal};
use crate::verify::LastSignature;

/// How much of the ledger a callee gets for calls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grant {
    /// What the rule's `grant` says, else the default split: a quarter of what is left after the call, but as many calls
    /// as hops are left, if the ledger has that many.
    #[default]
    ByRule,
    /// This much, or what is left if that is less.
    Exactly(u16),
}

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
    ledger: Ledger,
    /// The chain that came in; `None` at the originator.
    inbound: Option<Inbound>,
}

/// A chain that came in.
pub(crate) struct Inbound {
    chain: Chain,
    certs: Option<CertSet>,
    /// The hash over all links but the last.
    before: PrefixHash,
    presented: Arc<Presented>,
    peer: Arc<PeerState>,
    /// Whether the last signature holds, once that is known.
    last_holds: OnceLock<bool>,
    on_failure: Mutex<Hook>,
    /// The certificates for the next hop, encoded; `None` inside if they exceed a bound.
    forward: OnceLock<Option<Arc<[u8]>>>,
}

/// What happens if the last signature fails after all.
#[derive(Default)]
enum Hook {
    #[default]
    Unset,
    Set(Box<dyn FnOnce() + Send>),
    /// It failed before there was a hook, or the hook has run.
    Failed,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("hop", &self.chain.hop())
            .field("last_holds", &self.last_holds)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    pub(crate) fn new(
        chain: Chain,
        certs: Option<CertSet>,
        before: PrefixHash,
        presented: Arc<Presented>,
        peer: Arc<PeerState>,
        last: LastSignature,
    ) -> Self {
        let last_holds = OnceLock::new();
        if last == LastSignature::Checked {
            let _ = last_holds.set(true);
        }
        Self {
            chain,
            certs,
            before,
            presented,
            peer,
            last_holds,
            on_failure: Mutex::default(),
            forward: OnceLock::new(),
        }
    }

    fn last_signature_holds(&self) -> bool {
        let index = self.chain.links().len().saturating_sub(1);
        let message = self.chain.to_be_signed(index, &self.before);
        match (self.presented.key(), self.chain.last()) {
            (Some(key), Some(link)) => {
                key.verifies(link.algorithm, &message, self.chain.signature(index))
            }
            _ => false,
        }
    }

    fn fail(&self, at: Now) {
        self.peer.charge_failure(at.mono);
        let hook = std::mem::replace(&mut *lock(&self.on_failure), Hook::Failed);
        if let Hook::Set(hook) = hook {
            hook();
        }
    }

    /// The leaves and intermediates of everyone who signed a link of this chain.
    fn encode_certs(&self) -> Option<Arc<[u8]>> {
        let (leaf, above) = self.presented.chain.split_first()?;
        let earlier = || self.certs.iter();
        let leaves: Vec<_> = earlier().flat_map(CertSet::leaves).collect();
        let intermediates: Vec<_> = earlier().flat_map(CertSet::intermediates).collect();
        let leaves = leaves.iter().map(AsRef::as_ref).chain([leaf.as_ref()]);
        let intermediates = intermediates
            .iter()
            .map(AsRef::as_ref)
            .chain(above.iter().map(AsRef::as_ref));
        CertSet::encode(leaves, intermediates).map(Into::into)
    }
}

impl Context {
    pub(crate) fn inbound(
        holder: SpiffeId,
        (max_hops, deadline, budget): (u8, UnixTime, u16),
        inbound: Inbound,
    ) -> Self {
        Self(Arc::new(Inner {
            holder,
            originator: inbound.chain.originator().clone(),
            chain_id: inbound.chain.id(),
            deadline,
            max_hops,
            ledger: Ledger::new(budget),
            inbound: Some(inbound),
        }))
    }

    pub(crate) fn started(
        originator: SpiffeId,
        chain_id: ChainId,
        (max_hops, deadline, budget): (u8, UnixTime, u16),
    ) -> Self {
        Self(Arc::new(Inner {
            holder: originator.clone(),
            originator,
            chain_id,
            deadline,
            max_hops,
            ledger: Ledger::new(budget),
            inbound: None,
        }))
    }

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
        self.chain().map_or(0, Chain::hop)
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

    /// The chain that came in; `None` at the originator. Its last signature may still wait.
    #[must_use]
    pub fn chain(&self) -> Option<&Chain> {
        self.0.inbound.as_ref().map(|inbound| &inbound.chain)
    }

    /// Everyone in the chain, the originator first and the holder last.
    pub fn members(&self) -> impl Iterator<Item = &SpiffeId> {
        let callees = self
            .chain()
            .into_iter()
            .flat_map(Chain::links)
            .map(|link| &link.claims.aud);
        std::iter::once(&self.0.originator).chain(callees)
    }

    /// How many calls this context may still make or hand on.
    #[must_use]
    pub fn remaining(&self) -> u16 {
        self.0.ledger.remaining()
    }

    /// The grant that divides what is left into `shares` equal calls, rounded down. A share pays for its call first, so
    /// that with ten left and two shares each call costs one and grants four.
    #[must_use]
    pub fn split(&self, shares: NonZeroU16) -> Grant {
        Grant::Exactly((self.remaining() / shares).saturating_sub(1))
    }

    /// Checks the signature of the last link, if it still waits. Making a call does so by itself.
    ///
    /// # Errors
    /// `chain_signature_invalid`; then the inbound exchange has to end too, and nothing more comes of this context.
    pub fn check_signature(&self, at: Now) -> Result<(), Refusal> {
        let Some(inbound) = &self.0.inbound else {
            return Ok(());
        };
        let mut failed_now = false;
        let holds = *inbound.last_holds.get_or_init(|| {
            let holds = inbound.last_signature_holds();
            failed_now = !holds;
            holds
        });
        if failed_now {
            inbound.fail(at);
        }
        if holds {
            return Ok(());
        }
        let detail = "the signature of the last link of the inbound chain does not hold";
        let refusal = Refusal::new(Reason::ChainSignatureInvalid, detail);
        Err(refusal.with_chain_id(self.chain_id(), self.hop()))
    }

    /// Has `hook` called once if the late signature check fails, from whatever thread finds out. The layer ends the
    /// inbound exchange in it. A hook that is set after the failure is called at once; a second hook takes the place of
    /// the first.
    pub fn on_late_failure(&self, hook: impl FnOnce() + Send + 'static) {
        let Some(inbound) = &self.0.inbound else {
            return;
        };
        let mut slot = lock(&inbound.on_failure);
        if matches!(*slot, Hook::Failed) {
            // The hook may take other locks, or this one again.
            drop(slot);
            hook();
        } else {
            *slot = Hook::Set(Box::new(hook));
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// The encoded chain and how many links it has; nothing at the originator.
    pub(crate) fn encoded(&self) -> (&[u8], usize) {
        self.chain()
            .map_or((&[], 0), |chain| (chain.as_bytes(), chain.links().len()))
    }

    /// The hash over the whole chain.
    pub(crate) fn prefix(&self) -> PrefixHash {
        let Some(inbound) = &self.0.inbound else {
            return NO_LINKS;
        };
        let last = inbound.chain.links().len().saturating_sub(1);
        codec::prefix_after(&inbound.before, inbound.chain.link_bytes(last))
    }

    /// The certificates that the next callee needs.
    pub(crate) fn forward(&self) -> Forward {
        match &self.0.inbound {
            None => Forward::Nothing,
            Some(inbound) => match inbound.forward.get_or_init(|| inbound.encode_certs()) {
                Some(bytes) => Forward::Certs(Arc::clone(bytes)),
                None => Forward::TooMuch,
            },
        }
    }
}

/// The certificates of all earlier signers.
#[derive(Clone, Debug)]
pub(crate) enum Forward {
    /// There is no earlier signer.
    Nothing,
    /// This field.
    Certs(Arc<[u8]>),
    /// They exceed a bound.
    TooMuch,
}
