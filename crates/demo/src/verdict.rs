//! What should have happened, held against what the processes reported.

use std::time::Duration;

use crate::event::{Arrival, By, Flood, Handling, Made, Outcome, Steady, Svid, Tally};
use crate::script::{FLOOD, FLOOD_BURST, FLOOD_RATE, Name};

/// The one reason that the loop may be refused for.
const LOOP: &str = "cycle_detected";

/// One line of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was tried.
    pub(crate) what: &'static str,
    /// What should have come of it.
    pub(crate) expected: String,
    /// What came of it.
    pub(crate) seen: String,
    /// Whether that is as it should be.
    pub(crate) verdict: Verdict,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should.
    Ok,
    /// Not as it should.
    Failed,
}

impl Check {
    fn new(what: &'static str, expected: impl Into<String>, seen: String, holds: bool) -> Self {
        let verdict = if holds { Verdict::Ok } else { Verdict::Failed };
        Self {
            what,
            expected: expected.into(),
            seen,
            verdict,
        }
    }
}

/// The last segment of a SPIFFE ID.
pub(crate) fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

/// The chain as people read it.
pub(crate) fn chain<S: AsRef<str>>(members: &[S]) -> String {
    let names: Vec<_> = members.iter().map(|id| short(id.as_ref())).collect();
    names.join(" → ")
}

/// Every workload got its own ID, and a process without an entry was refused.
pub(crate) fn identities(joined: &[(Name, Svid)], stranger_refused: bool) -> Check {
    let own = joined
        .iter()
        .filter(|(name, svid)| svid.id == name.id())
        .count();
    let mut serials: Vec<_> = joined.iter().map(|(_, svid)| &svid.serial).collect();
    serials.sort();
    serials.dedup();
    let stranger = if stranger_refused { "none" } else { "one" };
    let all = Name::ALL.len();
    Check::new(
        "identities",
        format!("{all} of {all} have their own, a stranger none"),
        format!("{own} of {all} have their own, a stranger {stranger}"),
        own == all && serials.len() == own && stranger_refused,
    )
}

/// The calls of a task carry its chain.
pub(crate) fn carried(coder: &Handling, reviewer: &Handling) -> Check {
    let holds = coder.members == [Name::Planner, Name::Coder].map(Name::id)
        && reviewer.members == [Name::Planner, Name::Coder, Name::Reviewer].map(Name::id)
        && (coder.hop, reviewer.hop) == (1, 2)
        && reviewer.remaining < coder.remaining;
    Check::new(
        "chain of a call",
        "planner → coder → reviewer, hop 2",
        format!("{}, hop {}", chain(&reviewer.members), reviewer.hop),
        holds,
    )
}

/// The library stopped the loop, and nothing reached the planner: the first request that did is the one made by hand.
pub(crate) fn stopped_by_library(made: &Made, first: &Arrival) -> Check {
    let sent = first.number.saturating_sub(1);
    Check::new(
        "loop, by library",
        format!("{LOOP} by library, 0 requests sent"),
        format!("{}, {sent} requests sent", outcome(&made.outcome)),
        is_refused(&made.outcome, LOOP, By::Caller) && sent == 0,
    )
}

/// The planner refused what was sent by hand, and says so itself.
pub(crate) fn stopped_by_callee(made: &Made, arrival: &Arrival) -> Check {
    let agreed = arrival.refusal.as_deref() == Some(LOOP);
    let told = match &arrival.refusal {
        _ if agreed => String::new(),
        Some(other) => format!(", which says {other}"),
        None => ", which says nothing".to_owned(),
    };
    Check::new(
        "loop, by hand",
        format!("{LOOP} by callee"),
        format!("{}{told}", outcome(&made.outcome)),
        is_refused(&made.outcome, LOOP, By::Callee)
            && agreed
            && arrival.caller == Name::Reviewer.id(),
    )
}

/// The intruder got nowhere through its library, which refused to start a chain.
pub(crate) fn kept_in(made: &Made) -> Check {
    refused(
        made,
        "intruder, by library",
        "origination_denied",
        By::Caller,
    )
}

/// The intruder got nowhere by hand: the callee refused.
pub(crate) fn kept_out(made: &Made) -> Check {
    refused(made, "intruder, by hand", "edge_denied", By::Callee)
}

fn refused(made: &Made, what: &'static str, reason: &str, by: By) -> Check {
    let expected = format!("{reason} by {}", who(by));
    let holds = is_refused(&made.outcome, reason, by);
    Check::new(what, expected, outcome(&made.outcome), holds)
}

/// The flood was let through at the rate of its rule and no faster; the callee counted the same.
pub(crate) fn limited(flood: &Flood, arrivals: &[Arrival]) -> Check {
    let refused = flood
        .refused
        .get("rate_limited")
        .copied()
        .unwrap_or_default();
    let most = most_served(Duration::from_millis(flood.took_ms));
    let told_served = arrivals
        .iter()
        .filter(|arrival| arrival.refusal.is_none())
        .count();
    let told_refused = arrivals
        .iter()
        .filter(|a| a.refusal.as_deref() == Some("rate_limited"))
        .count();
    // The one more call after the wait arrived too.
    let agreed = (Ok(told_served), Ok(told_refused))
        == (usize::try_from(flood.served + 1), usize::try_from(refused));
    let after = u32::from(flood.served_after_wait);
    Check::new(
        "flood",
        format!("{FLOOD_BURST} to {most} of {FLOOD} served, 1 of 1 later"),
        format!(
            "{} of {} served, {after} of 1 later",
            flood.served, flood.made
        ),
        flood.made == FLOOD
            && (FLOOD_BURST..=most).contains(&flood.served)
            && flood.served < FLOOD
            && refused == FLOOD - flood.served
            && flood.served_after_wait
            && agreed,
    )
}

/// How many calls the flood's rule may have let through in this time: the burst, and what came in meanwhile.
fn most_served(took: Duration) -> u32 {
    let meanwhile = took.as_millis().saturating_mul(u128::from(FLOOD_RATE)) / 1000;
    FLOOD_BURST
        .saturating_add(u32::try_from(meanwhile).unwrap_or(u32::MAX))
        .saturating_add(1)
}

/// The SVIDs that were in use at first and were followed by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotations {
    /// The planner's, the first one first.
    pub(crate) planner: Vec<Svid>,
    /// The coder's.
    pub(crate) coder: Vec<Svid>,
}

/// Both SVIDs were rotated under steady calls, both sides showed the new certificates, and no call failed.
pub(crate) fn rotated(rotations: &Rotations, steady: &Steady) -> Check {
    let failed = steady.kept.failed + steady.fresh.failed;
    let made = steady.kept.made + steady.fresh.made;
    let planner_seen = shown(&rotations.planner, |svid| {
        steady.caller_serials.contains(&svid.serial)
    });
    let coder_seen = shown(&rotations.coder, |svid| {
        steady.callee_ends.contains(&svid.not_after)
    });
    let busy = |tally: Tally| tally.made > 0;
    Check::new(
        "rotation under load",
        "of planner and coder, 0 calls failed",
        format!("planner ×{planner_seen}, coder ×{coder_seen}, {failed} of {made} calls failed"),
        planner_seen > 0
            && coder_seen > 0
            && failed == 0
            && busy(steady.kept)
            && busy(steady.fresh),
    )
}

/// How many rotations the other side has seen: it saw a certificate and a later one.
fn shown(svids: &[Svid], seen: impl Fn(&Svid) -> bool) -> usize {
    svids
        .iter()
        .filter(|svid| seen(svid))
        .count()
        .saturating_sub(1)
}

/// Whether the callee answered the call, if only by a refusal.
pub(crate) fn reached_callee(made: &Made) -> bool {
    matches!(
        made.outcome,
        Outcome::Answered | Outcome::Refused { by: By::Callee, .. }
    )
}

fn is_refused(outcome: &Outcome, wanted: &str, wanted_by: By) -> bool {
    matches!(outcome, Outcome::Refused { reason, by, .. } if reason == wanted && *by == wanted_by)
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered => "served".to_owned(),
        Outcome::Refused { reason, by, .. } => format!("{reason} by {}", who(*by)),
        Outcome::Failed { why } => format!("failed: {why}"),
    }
}

const fn who(by: By) -> &'static str {
    match by {
        By::Caller => "library",
        By::Callee => "callee",
    }
}

#[cfg(test)]
mod tests;
