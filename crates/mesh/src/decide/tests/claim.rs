//! What links may claim: cases 3, 4 and 9.

use crate::context::Grant;
use crate::fixture::{Fixture, Forged, NOW, OPEN, reason};
use crate::outbound::{CallOrigin, OutboundError};
use crate::policy::Policy;
use crate::refusal::Reason;

fn refuse(names: &[&str], change: impl Fn(usize, &mut Forged)) -> Reason {
    reason(Fixture::new(OPEN).try_forged(names, change))
}

#[test]
fn case_03_a_deadline_that_has_passed_ends_the_chain() {
    let with_exp = |exp: u64| move |_: usize, forged: &mut Forged| forged.claims.exp = exp;
    assert_eq!(
        refuse(&["a", "b"], with_exp(NOW)),
        Reason::ChainDeadlinePassed
    );
    assert!(
        Fixture::new(OPEN)
            .try_forged(&["a", "b"], with_exp(NOW + 1))
            .is_ok()
    );
}

#[test]
fn case_03_the_originate_rules_deadline_outweighs_the_claim() {
    let mut fixture = Fixture::new(OPEN);
    let call = fixture.forge(&["a", "b", "c"], |i, forged| {
        forged.claims.exp = NOW + 3_000;
        // The last link is made when the others are five minutes old.
        forged.claims.iat = if i == 0 { NOW } else { NOW + 299 };
    });
    fixture.pass(299);
    assert!(fixture.deliver_forged(&["a", "b", "c"], &call).is_ok());
    fixture.pass(1);
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b", "c"], &call)),
        Reason::ChainDeadlinePassed
    );
}

#[test]
fn case_03_the_last_link_is_of_this_moment() {
    let with_iat = |iat: u64| move |_: usize, forged: &mut Forged| forged.claims.iat = iat;
    assert!(
        Fixture::new(OPEN)
            .try_forged(&["a", "b"], with_iat(NOW - 60))
            .is_ok()
    );
    assert!(
        Fixture::new(OPEN)
            .try_forged(&["a", "b"], with_iat(NOW + 30))
            .is_ok()
    );
    for iat in [NOW - 61, NOW + 31] {
        let refusal = Fixture::new(OPEN)
            .try_forged(&["a", "b"], with_iat(iat))
            .unwrap_err();
        assert_eq!(refusal.reason(), Reason::ChainStale);
        assert_eq!(refusal.time().unwrap().as_secs(), NOW);
        assert!(refusal.is_retryable());
    }
    // An earlier link from the future is as bad.
    let first_ahead =
        |i: usize, forged: &mut Forged| forged.claims.iat = if i == 0 { NOW + 31 } else { NOW };
    assert_eq!(refuse(&["a", "b", "c"], first_ahead), Reason::ChainStale);
}

#[test]
fn case_04_what_may_only_fall_does_not_rise() {
    type Change = fn(usize, &mut Forged);
    let changes: [(&str, Change); 5] = [
        ("max_hops", |i, forged| {
            forged.claims.max_hops = if i == 0 { 4 } else { 5 }
        }),
        ("exp", |i, forged| {
            forged.claims.exp = NOW + if i == 0 { 100 } else { 101 }
        }),
        ("budget", |_, forged| forged.claims.budget = 10),
        ("more budget", |i, forged| {
            forged.claims.budget = if i == 0 { 10 } else { 60_000 }
        }),
        ("iat", |i, forged| {
            forged.claims.iat = if i == 0 { NOW } else { NOW - 61 }
        }),
    ];
    for (what, change) in changes {
        // The last of the changes also makes the last link stale; what is malformed is found first.
        assert_eq!(
            refuse(&["a", "b", "c"], change),
            Reason::ChainMalformed,
            "{what}"
        );
    }
    let in_order =
        |i: usize, forged: &mut Forged| forged.claims.iat = if i == 0 { NOW } else { NOW - 60 };
    assert!(
        Fixture::new(OPEN)
            .try_forged(&["a", "b", "c"], in_order)
            .is_ok()
    );
    let lives_too_long = |_: usize, forged: &mut Forged| forged.claims.exp = NOW + 86_401;
    assert_eq!(refuse(&["a", "b"], lives_too_long), Reason::ChainMalformed);
}

#[test]
fn case_04_a_first_link_over_its_rule_is_clamped() {
    let fixture = Fixture::new(OPEN);
    let greedy = |i: usize, forged: &mut Forged| {
        forged.claims.max_hops = 16;
        forged.claims.budget = 60_000 - u16::try_from(i).unwrap();
        forged.claims.exp = NOW + 86_400;
    };
    let permit = fixture.try_forged(&["a", "b"], greedy).unwrap();
    let context = permit.context().unwrap();
    assert_eq!((context.max_hops(), context.remaining()), (5, 256));
    assert_eq!(context.deadline().as_secs(), NOW + 300);
    // And what B makes of it stays below.
    let call = fixture
        .prepare(
            "b",
            CallOrigin::Context(context),
            "c",
            Grant::Exactly(u16::MAX),
        )
        .unwrap();
    assert_eq!(
        (call.granted(), call.deadline().as_secs()),
        (255, NOW + 300)
    );
    let permit = fixture
        .deliver(
            &fixture.engine,
            "b",
            "c",
            call.chain_bytes(),
            call.certs_bytes(),
        )
        .unwrap();
    let claims = permit
        .context()
        .unwrap()
        .chain()
        .unwrap()
        .last()
        .unwrap()
        .claims
        .clone();
    assert_eq!(
        (claims.max_hops, claims.budget, claims.exp),
        (5, 255, NOW + 300)
    );
}

#[test]
fn a_link_below_a_budget_of_zero_is_refused() {
    let spent = |i: usize, forged: &mut Forged| {
        forged.claims.budget = if i == 0 { 1 } else { 0 };
    };
    // 1, then 0, then 0: the third link is made below a budget of zero.
    assert_eq!(
        refuse(&["a", "b", "c", "d"], spent),
        Reason::ChainBudgetExhausted
    );
    assert!(
        Fixture::new(OPEN)
            .try_forged(&["a", "b", "c"], spent)
            .is_ok()
    );
}

#[test]
fn case_09_five_hops_pass_and_the_sixth_does_not() {
    let fixture = Fixture::new(OPEN);
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut remaining = Vec::new();
    let mut context = fixture.start("a");
    for pair in names.windows(2) {
        let permit = fixture
            .call_at(
                &fixture.fresh_engine(),
                pair[0],
                &context,
                pair[1],
                Grant::ByRule,
            )
            .unwrap();
        context = permit.context().unwrap().clone();
        remaining.push(context.remaining());
    }
    assert_eq!(context.hop(), 5);
    assert_eq!(remaining, [63, 15, 3, 1, 0]);
    match fixture.prepare("f", CallOrigin::Context(&context), "g", Grant::ByRule) {
        Err(OutboundError::Refused(refusal)) => {
            assert_eq!(refusal.reason(), Reason::HopLimitExceeded);
            assert_eq!(
                (refusal.hop(), refusal.limit().unwrap().to_string()),
                (Some(6), "max_hops=5".to_owned())
            );
        }
        other => panic!("{other:?}"),
    }
    let seven = ["a", "b", "c", "d", "e", "f", "g"];
    let refusal = fixture.try_forged(&seven, |_, _| {}).unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.hop()),
        (Reason::HopLimitExceeded, Some(6))
    );
}

#[test]
fn case_09_a_ledger_of_five_lasts_for_five_straight_calls() {
    let policy = |budget: u16| {
        OPEN.replace(
            r#"burst 1000""#,
            &format!("burst 1000\"\n  budget = {budget}"),
        )
    };
    for budget in [5, 6, 7, 19, 20, 21, 1_000, u16::MAX] {
        let fixture = Fixture::new(&policy(budget));
        assert_eq!(
            fixture.walk(&["a", "b", "c", "d", "e", "f"]).hop(),
            5,
            "budget {budget}"
        );
    }
    let fixture = Fixture::new(&policy(0));
    let start = fixture.start("a");
    let refused = fixture.prepare("a", CallOrigin::Context(&start), "b", Grant::ByRule);
    assert!(
        matches!(refused, Err(OutboundError::Refused(r)) if r.reason() == Reason::ChainBudgetExhausted)
    );
}

#[test]
fn case_09_a_chains_65th_call_on_one_edge_is_refused() {
    let fixture = Fixture::new(OPEN);
    let start = fixture.start("a");
    for _ in 0..64 {
        assert!(fixture.call("a", &start, "b", Grant::Exactly(0)).is_ok());
    }
    let refusal = fixture
        .call("a", &start, "b", Grant::Exactly(0))
        .unwrap_err();
    assert_eq!(refusal.reason(), Reason::ChainBudgetExhausted);
    assert_eq!(refusal.limit().unwrap().to_string(), "calls_per_chain=64");
    // Another edge and another chain are not concerned.
    assert!(fixture.call("a", &start, "c", Grant::Exactly(0)).is_ok());
    assert!(
        fixture
            .call("a", &fixture.start("a"), "b", Grant::Exactly(0))
            .is_ok()
    );
}

#[test]
fn the_effective_hop_limit_sticks() {
    let short = format!(
        r#"
        allow "b takes short chains" {{
          from     = ["spiffe://td/a"]
          to       = ["spiffe://td/b"]
          actions  = ["/tasks"]
          max_hops = 2
        }}
        {OPEN}"#
    );
    let fixture = Fixture::new(&short);
    let at_b = fixture.walk(&["a", "b"]);
    assert_eq!(at_b.max_hops(), 2);
    let at_c = fixture.call("b", &at_b, "c", Grant::ByRule).unwrap();
    let at_c = at_c.context().unwrap();
    assert_eq!(at_c.chain().unwrap().last().unwrap().claims.max_hops, 2);
    let refused = fixture.prepare("c", CallOrigin::Context(at_c), "d", Grant::ByRule);
    assert!(
        matches!(refused, Err(OutboundError::Refused(r)) if r.reason() == Reason::HopLimitExceeded)
    );
}

#[test]
fn defaults_fill_in_what_rules_leave_out() {
    let policy = Policy::parse(&format!(
        "defaults {{\n  max_hops = 2\n  rate = \"7/m burst 3\"\n}}\n{OPEN}"
    ))
    .unwrap();
    assert_eq!(policy.max_hops(), 2);
    assert_eq!(policy.originate_rules()[0].max_hops, 2);
    assert_eq!(policy.allow_rules()[0].max_hops, 2);
    assert_eq!(
        policy.allow_rules()[0].rate.to_string(),
        "100000/s burst 100000"
    );
}
