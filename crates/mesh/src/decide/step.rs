//! Steps 1 to 9 in their order.

use std::sync::Arc;

use countersign_identity::verify::PeerError;
use countersign_identity::{Now, SpiffeId};

use super::charge::{ChainCharge, Charging, ROOM_DELAY};
use super::limit::Effective;
use super::{InboundRequest, PeerView, Permit, State};
use crate::chain::certs::MAX_CERTS_LEN;
use crate::chain::{Carrier, CertSet, Chain, FieldValue, MAX_CHAIN_LEN, Malformed};
use crate::check;
use crate::context::Context;
use crate::limits::{FAILURE_RATE, MAX_AGE, MAX_AHEAD, MAX_DISORDER, PeerState, Presented};
use crate::policy::action::Action;
use crate::policy::rule::{AllowRule, CallPath, ChainDemand, MatchDepth, OriginateRule, Verify};
use crate::policy::{Edge, Policy, Selected};
use crate::refusal::{Reason, Refusal};
use crate::verify::{Verification, check_peer};

pub(super) fn decide(
    state: &Arc<State>,
    policy: &Policy,
    request: &InboundRequest<'_>,
    at: Now,
) -> Result<Permit, Refusal> {
    let peer = peer(request, at)?;
    // Only looked up: an unknown peer takes no place before step 2 has let it pass.
    let known = state.peers.find(peer.id);
    let (action, edge) = admit(policy, request, &peer, known.as_deref(), at)?;
    let decision = Decision {
        state,
        policy,
        request,
        peer,
        action,
        edge,
        at,
    };
    decision
        .run()
        .inspect_err(|_| state.charge_failure(peer.id, at))
}

/// Step 1: who speaks.
fn peer<'a>(request: &InboundRequest<'a>, at: Now) -> Result<PeerView<'a>, Refusal> {
    let none = |detail: String| Refusal::new(Reason::NoPeerIdentity, detail);
    let peer = request
        .peer
        .ok_or_else(|| none("the connection has no verified peer".to_owned()))?;
    if peer.id.path().is_empty() {
        return Err(none(format!(
            "{} names a trust domain, not a workload",
            peer.id
        )));
    }
    if at.wall > peer.not_after {
        return Err(none(format!(
            "the certificate of {} expired at {}",
            peer.id, peer.not_after
        )));
    }
    Ok(peer)
}

/// Step 2: whether the policy lets the peer call this callee at all. Nothing of the chain is read yet.
fn admit<'a, 'p>(
    policy: &'p Policy,
    request: &InboundRequest<'a>,
    peer: &PeerView<'a>,
    known: Option<&PeerState>,
    at: Now,
) -> Result<(Action<'a>, Edge<'p>), Refusal> {
    if let Some(wait) = known.and_then(|known| known.failures.wait(FAILURE_RATE.gcra(), at.mono)) {
        let detail = format!("too many requests of {} failed", peer.id);
        return Err(Refusal::new(Reason::RateLimited, detail)
            .with_limit("failures", &FAILURE_RATE)
            .with_retry_after(wait));
    }
    let action = Action::new(request.method, request.path)
        .map_err(|why| Refusal::new(Reason::ActionDenied, why.to_string()))?;
    let edge = policy.edge(peer.id, request.presented);
    if !edge.is_named() {
        let detail = format!(
            "no allow rule names {} calling {}",
            peer.id, request.presented
        );
        return Err(Refusal::new(Reason::EdgeDenied, detail));
    }
    if !edge.allows(&action) {
        let detail = format!(
            "no allow rule for {} calling {} names {}",
            peer.id,
            request.presented,
            action.to_claim()
        );
        return Err(Refusal::new(Reason::ActionDenied, detail));
    }
    Ok((action, edge))
}

/// A request that passed step 2. Whatever fails from here on is charged to the peer.
struct Decision<'a, 'p> {
    state: &'a Arc<State>,
    policy: &'p Policy,
    request: &'a InboundRequest<'a>,
    peer: PeerView<'a>,
    action: Action<'a>,
    edge: Edge<'p>,
    at: Now,
}

impl<'p> Decision<'_, 'p> {
    fn run(&self) -> Result<Permit, Refusal> {
        match self.read().map_err(malformed)? {
            None => self.without_chain(),
            Some((chain, certs)) => {
                let (id, hop) = (chain.id(), chain.hop());
                self.with_chain(chain, certs)
                    .map_err(|refusal| refusal.with_chain_id(id, hop))
            }
        }
    }

    /// Step 3: the chain and its certificates; `None` if the request has no chain field at all.
    fn read(&self) -> Result<Option<(Chain, Option<CertSet>)>, Malformed> {
        let fields = &self.request.fields;
        let carrier = self.request.carrier;
        let (chain, certs, foreign) = match carrier {
            Carrier::Http => (
                fields.chain,
                fields.certs,
                [fields.chain_bin, fields.certs_bin],
            ),
            Carrier::Grpc => (
                fields.chain_bin,
                fields.certs_bin,
                [fields.chain, fields.certs],
            ),
        };
        // A request without a chain may still be permitted, so it is told apart before anything counts as malformed.
        if [fields.chain, fields.chain_bin]
            .iter()
            .all(|field| *field == FieldValue::Absent)
        {
            return Ok(None);
        }
        if foreign.iter().any(|field| *field != FieldValue::Absent) {
            return Err(Malformed("a field of the other carrier"));
        }
        let value = |field| match field {
            FieldValue::Absent => Ok(None),
            FieldValue::One(value) => Ok(Some(value)),
            FieldValue::Several => Err(Malformed("a field stands there twice")),
        };
        let Some(chain) = value(chain)? else {
            return Err(Malformed("a field of the other carrier"));
        };
        let certs = value(certs)?;
        let chain = Chain::decode(carrier.read(chain, MAX_CHAIN_LEN)?)?;
        // The signer of the only link is the peer, whose certificate the connection has shown (section 4).
        if certs.is_some() && chain.hop() == 1 {
            return Err(Malformed("certificates without an earlier signer"));
        }
        let certs = match certs {
            Some(certs) => Some(CertSet::decode(carrier.read(certs, MAX_CERTS_LEN)?)?),
            None => None,
        };
        Ok(Some((chain, certs)))
    }

    /// A request without a chain: the chain's demand, step 7 and the edge's rate.
    fn without_chain(&self) -> Result<Permit, Refusal> {
        let via = [self.peer.id];
        let call_path = CallPath {
            originator: None,
            via: &via,
        };
        let rule = match self.edge.select(&self.action, &call_path) {
            Some(Selected {
                rule,
                depth: MatchDepth::Whole,
            }) if rule.chain == ChainDemand::Optional => rule,
            other => {
                let refusal = Refusal::new(Reason::ChainRequired, "the request carries no chain");
                return Err(refusal.with_rule(other.map(|selected| &selected.rule.name)));
            }
        };
        let fields = &self.request.fields;
        if [fields.certs, fields.certs_bin]
            .iter()
            .any(|field| *field != FieldValue::Absent)
        {
            return Err(
                malformed(Malformed("certificates without a chain")).with_rule(Some(&rule.name))
            );
        }
        check::denied(&self.edge, &self.action, &call_path)?;
        let peer = self.enter()?;
        self.check_peer(&peer, &peer.presented(self.peer.kid, self.peer.chain))
            .map_err(|why| Refusal::new(Reason::NoPeerIdentity, why.to_string()))?;
        let charge = self
            .charging(&peer, rule)
            .without_chain()
            .map_err(|refusal| refusal.with_rule(Some(&rule.name)))?;
        Ok(Permit {
            rule: Arc::clone(&rule.name),
            peer: self.peer.id.clone(),
            context: None,
            charge,
        })
    }

    fn with_chain(&self, chain: Chain, certs: Option<CertSet>) -> Result<Permit, Refusal> {
        self.check_addressed(&chain)?;
        let via: Vec<_> = chain.via().collect();
        let call_path = CallPath {
            originator: Some(chain.originator()),
            via: &via,
        };
        // Chosen once for all later steps, so that one rule's limits serve steps 5, 6 and 9 (section 3).
        let selected = self
            .edge
            .select(&self.action, &call_path)
            .ok_or_else(|| Refusal::new(Reason::EdgeDenied, "no allow rule names the edge"))?;
        let named = |refusal: Refusal| refusal.with_rule(Some(&selected.rule.name));
        let (originate, effective) = self.check_claims(&chain, selected.rule).map_err(named)?;
        check::cycle(&via, self.request.presented, selected.rule.reentry).map_err(named)?;
        check::denied(&self.edge, &self.action, &call_path)?;
        check::allowed(&selected)?;
        self.finish(chain, certs, selected.rule, originate, &effective)
            .map_err(named)
    }

    /// Step 4: whether the chain is for this callee, by this peer, about this request.
    fn check_addressed(&self, chain: &Chain) -> Result<(), Refusal> {
        let last = chain
            .last()
            .ok_or_else(|| malformed(Malformed("the chain is empty")))?;
        if last.claims.aud != *self.request.presented {
            let detail = format!(
                "the chain is for {}, this is {}",
                last.claims.aud, self.request.presented
            );
            return Err(Refusal::new(Reason::ChainAudienceMismatch, detail));
        }
        let signer = chain.signer(chain.links().len().saturating_sub(1));
        if signer != Some(self.peer.id) {
            let signer = signer.map(SpiffeId::as_str).unwrap_or_default();
            let detail = format!(
                "the chain is by {signer}, the connection by {}",
                self.peer.id
            );
            return Err(Refusal::new(Reason::ChainAudienceMismatch, detail));
        }
        if !self.action.is(&last.claims.action) {
            let detail = format!(
                "the link is for {:?}, the request is {:?}",
                last.claims.action,
                self.action.to_claim()
            );
            return Err(Refusal::new(Reason::ActionDenied, detail));
        }
        Ok(())
    }

    /// Step 5: what the links say about each other, about the time, and against the limits.
    fn check_claims(
        &self,
        chain: &Chain,
        rule: &AllowRule,
    ) -> Result<(&'p OriginateRule, Effective), Refusal> {
        let originate = check::originate(self.policy, chain.originator())?;
        check_order(chain).map_err(malformed)?;
        let effective = Effective::of(chain, originate, rule);
        self.check_time(chain)?;
        check::deadline(effective.deadline, self.state.latest(self.at))?;
        check::hops(chain.hop(), effective.max_hops)?;
        check_budgets(chain, &effective)?;
        Ok((originate, effective))
    }

    fn check_time(&self, chain: &Chain) -> Result<(), Refusal> {
        let now = self.at.wall.as_secs();
        let latest = self.state.latest(self.at).as_secs();
        let stale =
            |detail: String| Refusal::new(Reason::ChainStale, detail).with_time(self.at.wall);
        if let Some(link) = chain
            .links()
            .iter()
            .find(|link| link.claims.iat > now.saturating_add(MAX_AHEAD))
        {
            return Err(stale(format!(
                "a link is from {}, it is {now}",
                link.claims.iat
            )));
        }
        if let Some(link) = chain
            .last()
            .filter(|link| latest > link.claims.iat.saturating_add(MAX_AGE))
        {
            return Err(stale(format!(
                "the last link is from {}, it is {latest}",
                link.claims.iat
            )));
        }
        Ok(())
    }

    /// Steps 8 and 9, and the permit.
    fn finish(
        &self,
        chain: Chain,
        certs: Option<CertSet>,
        rule: &Arc<AllowRule>,
        originate: &OriginateRule,
        effective: &Effective,
    ) -> Result<Permit, Refusal> {
        let prefixes = chain.prefixes();
        // From here on the peer owns entries in the caches and counters, so it needs a place.
        let peer = self.enter()?;
        let presented = peer.presented(self.peer.kid, self.peer.chain);
        let last = Verification {
            caches: &self.state.caches,
            bundles: self.state.bundles.as_ref(),
            chain: &chain,
            prefixes: &prefixes,
            certs: certs.as_ref(),
            presented: &presented,
            peer: &peer,
            until: effective.deadline.as_secs(),
            now: self.at.wall.as_secs(),
            last_may_wait: self.policy.verify() == Verify::WhenNeeded,
        }
        .run()?;
        // TLS verified the peer in the handshake; the connection may have outlived the authority behind it.
        self.check_peer(&peer, &presented)
            .map_err(|why| Refusal::new(Reason::ChainSignatureInvalid, why.to_string()))?;
        let of = ChainCharge {
            chain: &chain,
            prefixes: &prefixes,
            originate,
            effective,
        };
        let charge = self.charging(&peer, rule).with_chain(&of)?;
        let budget = chain.last().map_or(0, |link| effective.budget_of(link));
        let limits = (effective.max_hops, effective.deadline, budget);
        let before = crate::verify::before(&prefixes, prefixes.len());
        let inbound = crate::context::Inbound::new(
            chain,
            certs,
            before,
            presented,
            Arc::clone(charge.peer()),
            last,
        );
        let context = Context::inbound(self.request.presented.clone(), limits, inbound);
        Ok(Permit {
            rule: Arc::clone(&rule.name),
            peer: self.peer.id.clone(),
            context: Some(context),
            charge,
        })
    }

    /// Whether the peer's trust domain still vouches for what it presented.
    fn check_peer(&self, peer: &Arc<PeerState>, presented: &Presented) -> Result<(), PeerError> {
        let State {
            caches, bundles, ..
        } = &**self.state;
        let who = (self.peer.id, presented);
        let now = self.at.wall.as_secs();
        check_peer(caches, bundles.as_ref(), who, peer, now)
    }

    fn enter(&self) -> Result<Arc<PeerState>, Refusal> {
        self.state
            .peers
            .enter(self.peer.id, self.at.mono)
            .ok_or_else(|| {
                let detail = "there is no room for another peer";
                Refusal::new(Reason::RateLimited, detail)
                    .with_limit("peers", &self.state.peers.capacity())
                    .with_retry_after(ROOM_DELAY)
            })
    }

    fn charging<'c>(&'c self, peer: &'c Arc<PeerState>, rule: &'c AllowRule) -> Charging<'c> {
        Charging {
            state: self.state,
            peer,
            from: self.peer.id,
            to: self.request.presented,
            rule,
            at: self.at,
        }
    }
}

fn malformed(why: Malformed) -> Refusal {
    Refusal::new(Reason::ChainMalformed, why.to_string())
}

/// What may only fall along a chain, and the order of times.
fn check_order(chain: &Chain) -> Result<(), Malformed> {
    let pairs = || {
        chain
            .links()
            .iter()
            .zip(chain.links().iter().skip(1))
            .map(|(a, b)| (&a.claims, &b.claims))
    };
    if pairs().any(|(before, link)| link.max_hops > before.max_hops) {
        return Err(Malformed("max_hops rises"));
    }
    if pairs().any(|(before, link)| link.exp > before.exp) {
        return Err(Malformed("exp rises"));
    }
    if pairs().any(|(before, link)| link.iat.saturating_add(MAX_DISORDER) < before.iat) {
        return Err(Malformed(
            "a link is more than 60 s older than the one before",
        ));
    }
    Ok(())
}

fn check_budgets(chain: &Chain, effective: &Effective) -> Result<(), Refusal> {
    let earlier = chain.links().len().saturating_sub(1);
    for link in chain.links().iter().take(earlier) {
        check::budget(effective.budget_of(link))?;
    }
    let mut pairs = chain.links().iter().zip(chain.links().iter().skip(1));
    if pairs.any(|(before, link)| link.claims.budget >= before.claims.budget) {
        return Err(malformed(Malformed(
            "budget is over that of the link before, less one",
        )));
    }
    Ok(())
}
