//! The checks of steps 5 to 7 that both ends of a call make (`docs/call-chains.md`, sections 3 and 8).
//!
//! The caller makes them before it sends, so that an honest workload sends nothing that its callee would refuse; the
//! callee makes them when the call arrives. What a callee alone checks so far stands here too: a caller that holds the
//! same rules can call it.

use countersign_identity::{SpiffeId, UnixTime};

use crate::policy::action::Action;
use crate::policy::rule::{CallPath, MatchDepth, OriginateRule};
use crate::policy::{Edge, Policy, Selected};
use crate::refusal::{Reason, Refusal};

/// Step 5: whether a workload may start chains, and under which rule.
pub(crate) fn originate<'p>(
    policy: &'p Policy,
    originator: &SpiffeId,
) -> Result<&'p OriginateRule, Refusal> {
    policy.originate(originator).ok_or_else(|| {
        let detail = format!("no originate rule names {originator}");
        Refusal::new(Reason::OriginationDenied, detail)
    })
}

/// Step 5: whether there is time left. From the second of the deadline on there is none.
pub(crate) fn deadline(deadline: UnixTime, now: UnixTime) -> Result<(), Refusal> {
    if now < deadline {
        return Ok(());
    }
    let detail = format!("the deadline was {deadline}, it is {now}");
    let refusal = Refusal::new(Reason::ChainDeadlinePassed, detail);
    Err(refusal.with_limit("deadline", &deadline.as_secs()))
}

/// Step 5: whether a chain may have this many links, the one of the call included.
pub(crate) fn hops(links: u8, max_hops: u8) -> Result<(), Refusal> {
    if links <= max_hops {
        return Ok(());
    }
    let detail = format!("with this call the chain has {links} links");
    let refusal = Refusal::new(Reason::HopLimitExceeded, detail);
    Err(refusal.with_limit("max_hops", &max_hops))
}

/// Step 5: whether a workload that calls on was granted any calls.
pub(crate) fn budget(calls: u16) -> Result<(), Refusal> {
    if calls > 0 {
        return Ok(());
    }
    Err(exhausted())
}

/// The refusal of a call by a workload that has no calls left.
pub(crate) fn exhausted() -> Refusal {
    let detail = "a workload in the chain has no calls left of what it was granted";
    Refusal::new(Reason::ChainBudgetExhausted, detail).with_limit("budget", &0)
}

/// Step 6: whether the callee stands in the chain more often than the rule allows. `before` are the originator and all
/// callees before this one.
pub(crate) fn cycle(before: &[&SpiffeId], callee: &SpiffeId, reentry: u8) -> Result<(), Refusal> {
    let visits = before.iter().filter(|id| **id == callee).count();
    if visits <= usize::from(reentry) {
        return Ok(());
    }
    let detail = format!("{callee} stands in the chain already");
    Err(Refusal::new(Reason::CycleDetected, detail).with_limit("reentry", &reentry))
}

/// Step 7: whether a deny rule applies. It outweighs every allow rule.
pub(crate) fn denied(
    edge: &Edge<'_>,
    action: &Action<'_>,
    call_path: &CallPath<'_>,
) -> Result<(), Refusal> {
    match edge.denied(action, call_path) {
        None => Ok(()),
        Some(rule) => {
            let refusal = Refusal::new(Reason::PathDenied, "a deny rule applies");
            Err(refusal.with_rule(Some(&rule.name)))
        }
    }
}

/// Step 7: whether the selected allow rule matches wholly.
pub(crate) fn allowed(selected: &Selected<'_>) -> Result<(), Refusal> {
    let (reason, detail) = match selected.depth {
        MatchDepth::Whole => return Ok(()),
        // A callee finds this in step 2 already, for all rules of the edge together.
        MatchDepth::Edge => (Reason::ActionDenied, "the rule does not name the action"),
        MatchDepth::Action => (
            Reason::OriginatorDenied,
            "the rule does not serve this originator",
        ),
        MatchDepth::Originator => (
            Reason::PathDenied,
            "the chain did not come through those whom the rule demands",
        ),
    };
    Err(Refusal::new(reason, detail).with_rule(Some(&selected.rule.name)))
}
