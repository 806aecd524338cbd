//! Step 9: what a request charges, narrowest first, and how it is undone.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Now, SpiffeId};
use countersign_limits::gcra::Bucket;

use super::State;
use super::limit::Effective;
use crate::chain::{Chain, PrefixHash};
use crate::limits::{AccountError, ChainKey, PeerState, Rate, Seen, lock};
use crate::policy::rule::{AllowRule, OriginateRule};
use crate::refusal::{Reason, Refusal};

/// When a peer whose share of a map is used up may try again: entries leave the maps by the second.
pub(super) const ROOM_DELAY: Duration = Duration::from_secs(1);

/// What one request has charged so far.
#[derive(Debug)]
pub(super) struct Charge {
    state: Arc<State>,
    peer: Arc<PeerState>,
    edge: Option<(Arc<Bucket>, Rate)>,
    chain: Option<InChain>,
}

/// What it has charged to its chain.
#[derive(Debug)]
struct InChain {
    key: ChainKey,
    cti: [u8; 16],
    on_edge: Option<(SpiffeId, SpiffeId)>,
    links: Vec<PrefixHash>,
    /// The chain's own account; inside, whether this call opened the chain.
    whole: Option<bool>,
    originate: Rate,
}

/// Everything that step 9 needs to know about a request.
pub(super) struct Charging<'a> {
    pub(super) state: &'a Arc<State>,
    pub(super) peer: &'a Arc<PeerState>,
    pub(super) from: &'a SpiffeId,
    pub(super) to: &'a SpiffeId,
    pub(super) rule: &'a AllowRule,
    pub(super) at: Now,
}

/// The chain that a request belongs to.
pub(super) struct ChainCharge<'a> {
    pub(super) chain: &'a Chain,
    pub(super) prefixes: &'a [PrefixHash],
    pub(super) originate: &'a OriginateRule,
    pub(super) effective: &'a Effective,
}

impl Charging<'_> {
    /// Charges a request without a chain: the rate of its edge alone.
    pub(super) fn without_chain(&self) -> Result<Charge, Refusal> {
        let mut charge = self.nothing();
        self.edge(&mut charge)?;
        Ok(charge)
    }

    /// Charges a request with a chain. What was charged before a refusal is undone.
    pub(super) fn with_chain(&self, of: &ChainCharge<'_>) -> Result<Charge, Refusal> {
        match self.try_chain(of) {
            // What has expired may still hold places; a peer is refused only for what is live.
            Err(ChargeError::NoRoom(_)) if self.state.tidy_all(self.at) => self.try_chain(of),
            other => other,
        }
        .map_err(|error| match error {
            ChargeError::Refused(refusal) => refusal,
            ChargeError::NoRoom(map) => {
                let capacity = match map {
                    Map::Calls => self.state.calls.capacity(),
                    Map::Counters => self.state.accounts.capacity(),
                };
                let detail = format!("{} holds its whole share of {}", self.from, map.name());
                Refusal::new(Reason::RateLimited, detail)
                    .with_limit(map.name(), &capacity)
                    .with_retry_after(ROOM_DELAY)
            }
        })
    }

    fn nothing(&self) -> Charge {
        Charge {
            state: Arc::clone(self.state),
            peer: Arc::clone(self.peer),
            edge: None,
            chain: None,
        }
    }

    fn try_chain(&self, of: &ChainCharge<'_>) -> Result<Charge, ChargeError> {
        let mut charge = self.nothing();
        match self.charge_all(&mut charge, of) {
            Ok(()) => Ok(charge),
            Err(error) => {
                charge.undo();
                Err(error)
            }
        }
    }

    fn charge_all(&self, charge: &mut Charge, of: &ChainCharge<'_>) -> Result<(), ChargeError> {
        let mut in_chain = self.call(of)?;
        let result = self
            .edge(charge)
            .map_err(ChargeError::Refused)
            .and_then(|()| self.chain(&mut in_chain, of));
        // Kept on failure too: it says what there is to undo.
        charge.chain = Some(in_chain);
        result
    }

    /// Notes the call's ID, which no earlier call may have used.
    fn call(&self, of: &ChainCharge<'_>) -> Result<InChain, ChargeError> {
        let claims = &of
            .chain
            .last()
            .ok_or(ChargeError::NoRoom(Map::Counters))?
            .claims;
        let seen = lock(&self.peer.replay).note(
            claims.cti,
            claims.iat,
            &self.state.calls,
            &self.peer.calls,
        );
        match seen {
            Seen::Before => {
                let detail = format!("{} has made this call before", self.from);
                return Err(ChargeError::Refused(Refusal::new(
                    Reason::ChainReplayed,
                    detail,
                )));
            }
            Seen::NoRoom => return Err(ChargeError::NoRoom(Map::Calls)),
            Seen::New => {}
        }
        Ok(InChain {
            key: ChainKey {
                originator: of.chain.originator().clone(),
                id: of.chain.id(),
            },
            cti: claims.cti,
            on_edge: None,
            links: Vec::with_capacity(of.prefixes.len()),
            whole: None,
            originate: of.originate.new_chains,
        })
    }

    fn edge(&self, charge: &mut Charge) -> Result<(), Refusal> {
        let (bucket, rate) = (self.peer.edge(self.to), self.rule.rate);
        bucket.take(rate.gcra(), self.at.mono).map_err(|wait| {
            Refusal::new(
                Reason::RateLimited,
                format!("calls from {} to {} come too fast", self.from, self.to),
            )
            .with_limit("rate", &rate)
            .with_retry_after(wait)
        })?;
        charge.edge = Some((bucket, rate));
        Ok(())
    }

    fn chain(&self, charged: &mut InChain, of: &ChainCharge<'_>) -> Result<(), ChargeError> {
        let accounts = &self.state.accounts;
        let limit = self.rule.calls_per_chain;
        // That of the first link: whoever signs a later one may shorten the deadline, but not what is remembered.
        let until = of
            .chain
            .links()
            .first()
            .map_or(of.effective.deadline.as_secs(), |link| {
                of.effective.deadline_of(link)
            });
        accounts
            .charge_edge(&charged.key, (self.from, self.to), limit, until, self.peer)
            .map_err(|error| exhausted(error, "calls_per_chain", &limit))?;
        charged.on_edge = Some((self.from.clone(), self.to.clone()));
        // The nearest link first: its budget is the narrowest (section 3, step 9).
        for (link, prefix) in of.chain.links().iter().zip(of.prefixes).rev() {
            let budget = of.effective.budget_of(link);
            accounts
                .charge_link(prefix, budget, of.effective.deadline_of(link), self.peer)
                .map_err(|error| exhausted(error, "budget", &budget))?;
            charged.links.push(*prefix);
        }
        let rate = of.originate.new_chains;
        // The first hop's caller is the originator itself.
        let opening = (of.chain.hop() == 1).then_some((self.peer.as_ref(), rate, self.at.mono));
        let opened = accounts
            .charge_chain(&charged.key, of.effective.budget, opening)
            .map_err(|error| match error {
                AccountError::TooFast(wait) => ChargeError::Refused(
                    Refusal::new(
                        Reason::NewChainRateLimited,
                        format!("{} starts chains too fast", self.from),
                    )
                    .with_limit("new_chains", &rate)
                    .with_retry_after(wait),
                ),
                other => exhausted(other, "budget", &of.effective.budget),
            })?;
        charged.whole = Some(opened);
        Ok(())
    }
}

/// Why a request was not charged.
enum ChargeError {
    Refused(Refusal),
    /// The peer's share of this map is used up, as far as is known before everything is tidied.
    NoRoom(Map),
}

/// The bounded maps that a request can find full.
#[derive(Clone, Copy)]
enum Map {
    Calls,
    Counters,
}

impl Map {
    const fn name(self) -> &'static str {
        match self {
            Self::Calls => "replay_memory",
            Self::Counters => "counters",
        }
    }
}

fn exhausted(
    error: AccountError,
    limit: &'static str,
    value: &impl std::fmt::Display,
) -> ChargeError {
    match error {
        AccountError::NoRoom => ChargeError::NoRoom(Map::Counters),
        AccountError::Limit | AccountError::TooFast(_) => {
            let detail = "the chain has made all the calls that it may make here";
            ChargeError::Refused(
                Refusal::new(Reason::ChainBudgetExhausted, detail).with_limit(limit, value),
            )
        }
    }
}

impl Charge {
    /// Who was charged.
    pub(super) fn peer(&self) -> &Arc<PeerState> {
        &self.peer
    }

    /// Undoes everything, because step 9 refused the request itself.
    fn undo(self) {
        // A refused call was never made, so that its link may come again once there is room.
        if let Some(chain) = &self.chain {
            lock(&self.peer.replay).undo(&chain.cti, &self.state.calls, &self.peer.calls);
        }
        self.refund();
    }

    /// Gives back everything but the call's ID.
    pub(super) fn refund(self) {
        if let Some((bucket, rate)) = &self.edge {
            bucket.undo(rate.gcra(), 1);
        }
        let Some(chain) = &self.chain else { return };
        let accounts = &self.state.accounts;
        if let Some(opened) = chain.whole {
            accounts.undo_chain(&chain.key, opened);
            if opened {
                self.peer.new_chains.undo(chain.originate.gcra(), 1);
            }
        }
        for prefix in &chain.links {
            accounts.undo_link(prefix);
        }
        if let Some((from, to)) = &chain.on_edge {
            accounts.undo_edge(&chain.key, (from, to));
        }
    }
}
