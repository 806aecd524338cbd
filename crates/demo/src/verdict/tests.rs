//! Each check holds for what should happen and fails for every way in which it may not.

use super::*;
use crate::event::Client;

fn svid(id: String, serial: &str, not_after: u64) -> Svid {
    Svid {
        id,
        serial: serial.into(),
        not_after,
    }
}

fn joined() -> Vec<(Name, Svid)> {
    Name::ALL
        .map(|name| (name, svid(name.id(), name.as_str(), 1)))
        .into()
}

#[test]
fn every_workload_needs_its_own_id_and_serial_and_a_stranger_none() {
    assert_eq!(identities(&joined(), true).verdict, Verdict::Ok);
    assert_eq!(identities(&joined(), false).verdict, Verdict::Failed);
    assert_eq!(identities(&joined()[1..], true).verdict, Verdict::Failed);
    let mut swapped = joined();
    swapped[0].1.id = Name::Intruder.id();
    assert_eq!(identities(&swapped, true).verdict, Verdict::Failed);
    let mut same = joined();
    same[0].1.serial = same[1].1.serial.clone();
    assert_eq!(identities(&same, true).verdict, Verdict::Failed);
}

fn handling(members: &[Name], hop: u8, remaining: u16) -> Handling {
    Handling {
        action: "POST /x".into(),
        members: members.iter().map(|name| name.id()).collect(),
        hop,
        max_hops: 5,
        remaining,
    }
}

#[test]
fn a_chain_has_everyone_in_order_and_its_budget_shrinks() {
    let coder = handling(&[Name::Planner, Name::Coder], 1, 60);
    let reviewer = handling(&[Name::Planner, Name::Coder, Name::Reviewer], 2, 14);
    let check = carried(&coder, &reviewer);
    assert_eq!(check.seen, "planner → coder → reviewer, hop 2");
    assert_eq!(check.verdict, Verdict::Ok);
    let cut = handling(&[Name::Coder, Name::Reviewer], 2, 14);
    let grown = Handling {
        remaining: 60,
        ..reviewer.clone()
    };
    for bad in [cut, grown] {
        assert_eq!(carried(&coder, &bad).verdict, Verdict::Failed);
    }
}

fn made(reason: &str, by: By) -> Made {
    Made {
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

fn arrival(number: u64, caller: Name, refusal: Option<&str>) -> Arrival {
    Arrival {
        number,
        caller: caller.id(),
        action: String::new(),
        refusal: refusal.map(Into::into),
    }
}

#[test]
fn the_library_has_to_refuse_without_sending() {
    let first = arrival(1, Name::Reviewer, Some(LOOP));
    assert_eq!(
        stopped_by_library(&made(LOOP, By::Caller), &first).verdict,
        Verdict::Ok
    );
    assert_eq!(
        stopped_by_library(&made(LOOP, By::Callee), &first).verdict,
        Verdict::Failed
    );
    assert_eq!(
        stopped_by_library(&made("edge_denied", By::Caller), &first).verdict,
        Verdict::Failed
    );
    let second = arrival(2, Name::Reviewer, Some(LOOP));
    assert_eq!(
        stopped_by_library(&made(LOOP, By::Caller), &second).verdict,
        Verdict::Failed
    );
}

#[test]
fn the_callee_has_to_refuse_and_to_say_so() {
    let by_callee = made(LOOP, By::Callee);
    let told =
        |refusal| stopped_by_callee(&by_callee, &arrival(1, Name::Reviewer, refusal)).verdict;
    assert_eq!(told(Some(LOOP)), Verdict::Ok);
    assert_eq!(
        (told(None), told(Some("edge_denied"))),
        (Verdict::Failed, Verdict::Failed)
    );
    let answered = Made {
        outcome: Outcome::Answered,
        ..by_callee.clone()
    };
    assert_eq!(
        stopped_by_callee(&answered, &arrival(1, Name::Reviewer, None)).verdict,
        Verdict::Failed
    );
    let other = arrival(1, Name::Coder, Some(LOOP));
    assert_eq!(
        stopped_by_callee(&by_callee, &other).verdict,
        Verdict::Failed
    );
}

#[test]
fn the_intruder_has_to_fail_both_ways() {
    let library = made("origination_denied", By::Caller);
    let by_hand = made("edge_denied", By::Callee);
    assert_eq!(
        (kept_in(&library).verdict, kept_out(&by_hand).verdict),
        (Verdict::Ok, Verdict::Ok)
    );
    assert_eq!(
        (kept_in(&by_hand).verdict, kept_out(&library).verdict),
        (Verdict::Failed, Verdict::Failed)
    );
}

fn flood(served: u32) -> (Flood, Vec<Arrival>) {
    let refused = FLOOD - served;
    let flood = Flood {
        made: FLOOD,
        served,
        refused: [("rate_limited".into(), refused)].into(),
        took_ms: 100,
        served_after_wait: true,
        ..Flood::default()
    };
    let served = std::iter::repeat_n(None, usize::try_from(served).unwrap() + 1);
    let refused = std::iter::repeat_n(Some("rate_limited"), usize::try_from(refused).unwrap());
    let arrivals = served
        .chain(refused)
        .zip(1..)
        .map(|(refusal, n)| arrival(n, Name::Coder, refusal));
    (flood, arrivals.collect())
}

#[test]
fn the_flood_gets_the_burst_and_what_came_in_meanwhile() {
    for (served, verdict) in [
        (FLOOD_BURST - 1, Verdict::Failed),
        (FLOOD_BURST, Verdict::Ok),
        (FLOOD_BURST + 2, Verdict::Ok),
        (FLOOD_BURST + 3, Verdict::Failed),
    ] {
        let (flood, arrivals) = flood(served);
        assert_eq!(limited(&flood, &arrivals).verdict, verdict, "{served}");
    }
}

#[test]
fn the_flood_is_refused_for_one_reason_and_both_sides_count_alike() {
    let (good, arrivals) = flood(FLOOD_BURST);
    assert_eq!(limited(&good, &arrivals[1..]).verdict, Verdict::Failed);
    let never = Flood {
        served_after_wait: false,
        ..good.clone()
    };
    assert_eq!(limited(&never, &arrivals).verdict, Verdict::Failed);
    let mut other = good;
    other.refused = [("chain_budget_exhausted".into(), 80)].into();
    assert_eq!(limited(&other, &arrivals).verdict, Verdict::Failed);
}

#[test]
fn a_slow_machine_lets_all_of_the_flood_through_only_by_a_failed_check() {
    let (mut flood, arrivals) = flood(FLOOD);
    flood.took_ms = 60_000;
    assert_eq!(limited(&flood, &arrivals).verdict, Verdict::Failed);
}

fn rotations() -> Rotations {
    Rotations {
        planner: vec![svid(String::new(), "1", 20), svid(String::new(), "2", 25)],
        coder: vec![
            svid(String::new(), "7", 21),
            svid(String::new(), "8", 26),
            svid(String::new(), "9", 31),
        ],
    }
}

fn steady() -> Steady {
    Steady {
        kept: Tally {
            made: 10,
            failed: 0,
        },
        fresh: Tally {
            made: 10,
            failed: 0,
        },
        first_failure: None,
        caller_serials: vec!["1".into(), "2".into()],
        callee_ends: vec![21, 26, 31],
    }
}

#[test]
fn a_rotation_counts_once_the_other_side_has_seen_both_certificates() {
    let check = rotated(&rotations(), &steady());
    assert_eq!(check.seen, "planner ×1, coder ×2, 0 of 20 calls failed");
    assert_eq!(check.verdict, Verdict::Ok);
    let unseen = Steady {
        caller_serials: vec!["1".into()],
        ..steady()
    };
    assert_eq!(rotated(&rotations(), &unseen).verdict, Verdict::Failed);
    let one_of_each = Steady {
        callee_ends: vec![31],
        ..steady()
    };
    assert_eq!(rotated(&rotations(), &one_of_each).verdict, Verdict::Failed);
}

#[test]
fn one_failed_call_is_one_too_many_and_both_kinds_have_to_be_made() {
    let dropped = Steady {
        fresh: Tally {
            made: 10,
            failed: 1,
        },
        ..steady()
    };
    let idle = Steady {
        kept: Tally::default(),
        ..steady()
    };
    for bad in [dropped, idle] {
        assert_eq!(rotated(&rotations(), &bad).verdict, Verdict::Failed);
    }
}
