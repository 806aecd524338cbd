//! What should happen in each scene, held against what the processes report.

use std::time::Duration;

use crate::protocol::{Arrival, Called, Flood, Handling, Outcome, RefusedBy, Steady, Svid, path};
use crate::script::{FLOOD, FLOOD_BURST, FLOOD_RATE, Name};

/// The reason that the loop is refused for.
const LOOP: &str = "cycle_detected";

/// One line of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) expected: String,
    pub(crate) seen: String,
    pub(crate) passed: bool,
}

impl Check {
    fn new(what: &'static str, expected: impl Into<String>, seen: String, passed: bool) -> Self {
        let expected = expected.into();
        Self {
            what,
            expected,
            seen,
            passed,
        }
    }
}

/// Every workload has its own ID, and a process without an entry was refused.
pub(crate) fn identities(joined: &[(Name, Svid)], stranger_refused: bool) -> Check {
    let all = Name::ALL.len();
    let own = joined.iter().filter(|(name, svid)| svid.id == name.id());
    let own = own.count();
    let stranger = if stranger_refused { "none" } else { "one" };
    Check::new(
        "identities",
        format!("{all} of {all} have their own, a stranger none"),
        format!("{own} of {all} have their own, a stranger {stranger}"),
        own == all && stranger_refused,
    )
}

/// The calls of a task carry its chain, and the budget shrinks along it.
pub(crate) fn chain(coder: &Handling, reviewer: &Handling) -> Check {
    let holds = coder.members == [Name::Planner, Name::Coder].map(Name::id)
        && reviewer.members == [Name::Planner, Name::Coder, Name::Reviewer].map(Name::id)
        && (coder.hop, reviewer.hop) == (1, 2)
        && reviewer.remaining < coder.remaining;
    Check::new(
        "chain of a call",
        "planner → coder → reviewer, hop 2",
        format!("{}, hop {}", path(&reviewer.members), reviewer.hop),
        holds,
    )
}

/// The library refused the loop, and sent nothing: the first request to reach the planner is the one made by hand.
pub(crate) fn loop_by_library(call: &Called, first: &Arrival) -> Check {
    let sent = first.number.saturating_sub(1);
    Check::new(
        "loop, by library",
        format!("{LOOP} by library, 0 requests sent"),
        format!("{}, {sent} requests sent", describe(&call.outcome)),
        is_refused(&call.outcome, LOOP, RefusedBy::Library) && sent == 0,
    )
}

/// The planner refused what was sent by hand, and says so itself.
pub(crate) fn loop_by_hand(call: &Called, arrival: &Arrival) -> Check {
    let says = arrival.refusal.as_deref().unwrap_or("nothing");
    Check::new(
        "loop, by hand",
        format!("{LOOP} by callee, which says {LOOP}"),
        format!("{}, which says {says}", describe(&call.outcome)),
        is_refused(&call.outcome, LOOP, RefusedBy::Callee)
            && says == LOOP
            && arrival.caller == Name::Reviewer.id(),
    )
}

/// The intruder's library refused to start a chain.
pub(crate) fn intruder_by_library(call: &Called) -> Check {
    refused(
        call,
        "intruder, by library",
        "origination_denied",
        RefusedBy::Library,
    )
}

/// The callee refused the intruder's call by hand.
pub(crate) fn intruder_by_hand(call: &Called) -> Check {
    refused(call, "intruder, by hand", "edge_denied", RefusedBy::Callee)
}

fn refused(call: &Called, what: &'static str, reason: &str, by: RefusedBy) -> Check {
    let expected = format!("{reason} by {}", word(by));
    let passed = is_refused(&call.outcome, reason, by);
    Check::new(what, expected, describe(&call.outcome), passed)
}

/// The flood was let through at the rate of its rule and no faster.
pub(crate) fn flood(flood: &Flood) -> Check {
    let limited = flood.refused.get("rate_limited").copied();
    let limited = limited.unwrap_or_default();
    let most = most_served(Duration::from_millis(flood.took_ms));
    Check::new(
        "flood",
        format!("{FLOOD_BURST} to {most} of {FLOOD} served, 1 of 1 later"),
        format!(
            "{} of {FLOOD} served, {} of 1 later",
            flood.served,
            u32::from(flood.served_after_wait)
        ),
        (FLOOD_BURST..=most).contains(&flood.served)
            && flood.served < FLOOD
            && flood.served + limited == FLOOD
            && flood.served_after_wait,
    )
}

/// How many calls the rule lets through in this time: the burst, what accrues meanwhile, and one for rounding.
fn most_served(took: Duration) -> u32 {
    let accrued = took.as_millis().saturating_mul(u128::from(FLOOD_RATE)) / 1000;
    FLOOD_BURST
        .saturating_add(u32::try_from(accrued).unwrap_or(u32::MAX))
        .saturating_add(1)
}

/// Planner and coder rotated their SVIDs under steady calls, and no call failed.
pub(crate) fn rotation(planner: usize, coder: usize, steady: &Steady) -> Check {
    let made = steady.kept + steady.fresh;
    Check::new(
        "rotation under load",
        "of planner and coder, 0 calls failed",
        format!(
            "planner ×{planner}, coder ×{coder}, {} of {made} calls failed",
            steady.failed
        ),
        planner > 0 && coder > 0 && steady.failed == 0 && steady.kept > 0 && steady.fresh > 0,
    )
}

fn is_refused(outcome: &Outcome, wanted: &str, wanted_by: RefusedBy) -> bool {
    matches!(outcome, Outcome::Refused { reason, by, .. } if reason == wanted && *by == wanted_by)
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered => "served".to_owned(),
        Outcome::Refused { reason, by, .. } => format!("{reason} by {}", word(*by)),
        Outcome::Failed { error } => format!("failed: {error}"),
    }
}

const fn word(by: RefusedBy) -> &'static str {
    match by {
        RefusedBy::Library => "library",
        RefusedBy::Callee => "callee",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Client;

    fn call(reason: &str, by: RefusedBy) -> Called {
        Called {
            members: Vec::new(),
            callee: String::new(),
            action: String::new(),
            client: Client::Library,
            outcome: Outcome::Refused {
                reason: reason.into(),
                by,
                sentence: String::new(),
            },
        }
    }

    fn arrival(number: u64, refusal: Option<&str>) -> Arrival {
        Arrival {
            number,
            caller: Name::Reviewer.id(),
            action: String::new(),
            refusal: refusal.map(Into::into),
        }
    }

    #[test]
    fn the_library_has_to_refuse_the_loop_without_sending() {
        let (refused, first) = (call(LOOP, RefusedBy::Library), arrival(1, Some(LOOP)));
        assert!(loop_by_library(&refused, &first).passed);
        assert!(!loop_by_library(&call(LOOP, RefusedBy::Callee), &first).passed);
        assert!(!loop_by_library(&call("edge_denied", RefusedBy::Library), &first).passed);
        assert!(!loop_by_library(&refused, &arrival(2, Some(LOOP))).passed);
    }

    #[test]
    fn the_callee_has_to_refuse_the_loop_and_to_say_so() {
        let refused = call(LOOP, RefusedBy::Callee);
        assert!(loop_by_hand(&refused, &arrival(1, Some(LOOP))).passed);
        assert!(!loop_by_hand(&refused, &arrival(1, None)).passed);
        assert!(!loop_by_hand(&call(LOOP, RefusedBy::Library), &arrival(1, Some(LOOP))).passed);
    }

    fn flooded(served: u32, took_ms: u64) -> Flood {
        Flood {
            served,
            refused: [("rate_limited".into(), FLOOD - served)].into(),
            took_ms,
            served_after_wait: true,
            ..Flood::default()
        }
    }

    #[test]
    fn the_flood_gets_the_burst_and_what_accrues_meanwhile() {
        assert!(!flood(&flooded(FLOOD_BURST - 1, 100)).passed);
        assert!(flood(&flooded(FLOOD_BURST, 100)).passed);
        assert!(flood(&flooded(FLOOD_BURST + 2, 100)).passed);
        assert!(!flood(&flooded(FLOOD_BURST + 3, 100)).passed);
        assert!(!flood(&flooded(FLOOD, 60_000)).passed);
        let never = Flood {
            served_after_wait: false,
            ..flooded(FLOOD_BURST, 100)
        };
        assert!(!flood(&never).passed);
    }

    #[test]
    fn one_failed_call_fails_the_rotation() {
        let steady = Steady {
            kept: 10,
            fresh: 10,
            ..Steady::default()
        };
        assert!(rotation(1, 2, &steady).passed);
        assert!(!rotation(0, 2, &steady).passed);
        let failed = Steady {
            failed: 1,
            ..steady
        };
        assert!(!rotation(1, 2, &failed).passed);
    }
}
