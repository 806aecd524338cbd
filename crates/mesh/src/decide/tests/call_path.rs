//! Who calls whom, and through whom: cases 1, 3, 7, 8, 12 and 16.

use countersign_identity::SpiffeId;

use crate::chain::FieldValue;
use crate::context::Grant;
use crate::decide::{FieldValues, InboundRequest};
use crate::fixture::{Fixture, OPEN, reason};
use crate::outbound::{CallOrigin, OutboundError};
use crate::policy::Policy;
use crate::refusal::Reason;

fn refused_locally(result: Result<crate::OutgoingCall, OutboundError>) -> Reason {
    match result {
        Err(OutboundError::Refused(refusal)) => refusal.reason(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn case_01_without_the_header_a_chain_is_required() {
    let fixture = Fixture::new(OPEN);
    let request = fixture.request("a", "b", FieldValues::default());
    let refusal = fixture
        .engine
        .decide(&fixture.policy, &request, fixture.at())
        .unwrap_err();
    assert_eq!(refusal.reason(), Reason::ChainRequired);
    assert_eq!(
        (refusal.chain_id(), refusal.hop(), refusal.rule()),
        (None, None, Some("everybody"))
    );
}

#[test]
fn case_01_a_middle_workload_cannot_start_a_chain() {
    let fixture = Fixture::new(OPEN);
    assert_eq!(
        refused_locally(fixture.prepare("b", CallOrigin::NewChain, "c", Grant::ByRule)),
        Reason::OriginationDenied
    );
    assert_eq!(
        reason(fixture.try_forged(&["b", "c"], |_, _| {})),
        Reason::OriginationDenied
    );
}

#[test]
fn a_call_with_its_chain_is_permitted_and_gives_a_context() {
    let fixture = Fixture::new(OPEN);
    let start = fixture.start("a");
    let permit = fixture.call("a", &start, "b", Grant::Exactly(10)).unwrap();
    let context = permit.context().unwrap();
    assert_eq!(
        (permit.rule(), permit.peer()),
        ("everybody", &fixture.get("a").id)
    );
    assert_eq!(
        (context.hop(), context.remaining(), context.max_hops()),
        (1, 10, 5)
    );
    assert_eq!(
        (context.chain_id(), context.deadline()),
        (start.chain_id(), start.deadline())
    );
    let members: Vec<_> = context.members().map(SpiffeId::as_str).collect();
    assert_eq!(members, ["spiffe://td/a", "spiffe://td/b"]);
    assert_eq!(start.remaining(), 256 - 1 - 10);
}

#[test]
fn case_03_a_chain_is_good_for_one_callee_from_one_caller() {
    let fixture = Fixture::new(OPEN);
    let to_b = fixture.forge(&["a", "b"], |_, _| {});
    assert_eq!(
        reason(fixture.deliver(&fixture.engine, "a", "c", &to_b.bytes, None)),
        Reason::ChainAudienceMismatch
    );
    assert_eq!(
        reason(fixture.deliver(&fixture.engine, "c", "b", &to_b.bytes, None)),
        Reason::ChainAudienceMismatch
    );
    // B's own outgoing chain, presented by C.
    let by_b = fixture.forge(&["a", "b", "d"], |_, _| {});
    let result = fixture.deliver(
        &fixture.engine,
        "c",
        "d",
        &by_b.bytes,
        by_b.certs.as_deref(),
    );
    assert_eq!(reason(result), Reason::ChainAudienceMismatch);
}

#[test]
fn case_03_the_same_call_twice_is_replayed() {
    let mut fixture = Fixture::new(OPEN);
    let call = fixture.forge(&["a", "b"], |_, _| {});
    assert!(fixture.deliver_forged(&["a", "b"], &call).is_ok());
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b"], &call)),
        Reason::ChainReplayed
    );
    fixture.pass(60);
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b"], &call)),
        Reason::ChainReplayed
    );
    fixture.pass(1);
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b"], &call)),
        Reason::ChainStale
    );
}

#[test]
fn case_07_the_action_that_was_signed_is_the_one_that_is_done() {
    let fixture = Fixture::new(OPEN);
    let signed_other = |_: usize, forged: &mut crate::fixture::Forged| {
        forged.claims.action = "GET /tasks/1".to_owned();
    };
    assert_eq!(
        reason(fixture.try_forged(&["a", "b"], signed_other)),
        Reason::ActionDenied
    );
    // Policy is asked about the request, not about the claim.
    let call = fixture.forge(&["a", "b"], |_, forged| {
        forged.claims.action = "POST /admin".to_owned();
    });
    let value = crate::Carrier::Http.write(&call.bytes);
    let fields = FieldValues {
        chain: FieldValue::One(value.as_bytes()),
        ..FieldValues::default()
    };
    let request = InboundRequest {
        path: "/admin",
        ..fixture.request("a", "b", fields)
    };
    assert_eq!(
        reason(
            fixture
                .engine
                .decide(&fixture.policy, &request, fixture.at())
        ),
        Reason::ActionDenied
    );
}

#[test]
fn case_08_whoever_stands_in_the_chain_is_not_called_again() {
    let fixture = Fixture::new(OPEN);
    let start = fixture.start("a");
    assert_eq!(
        refused_locally(fixture.prepare("a", CallOrigin::Context(&start), "a", Grant::ByRule)),
        Reason::CycleDetected
    );
    let at_b = fixture.walk(&["a", "b"]);
    assert_eq!(
        refused_locally(fixture.prepare("b", CallOrigin::Context(&at_b), "a", Grant::ByRule)),
        Reason::CycleDetected
    );
    let at_c = fixture.walk(&["a", "b", "c"]);
    assert_eq!(
        refused_locally(fixture.prepare("c", CallOrigin::Context(&at_c), "a", Grant::ByRule)),
        Reason::CycleDetected
    );
    // A client that sends all the same is refused by the callee.
    for call_path in [
        &["a", "a"][..],
        &["a", "b", "a"],
        &["a", "b", "c", "a"],
        &["a", "b", "c", "b"],
    ] {
        let refusal = fixture.try_forged(call_path, |_, _| {}).unwrap_err();
        assert_eq!(refusal.reason(), Reason::CycleDetected, "{call_path:?}");
        assert_eq!(refusal.limit().unwrap().to_string(), "reentry=0");
        assert_eq!(
            refusal.hop(),
            Some(u8::try_from(call_path.len() - 1).unwrap())
        );
    }
}

#[test]
fn case_08_with_reentry_a_workload_may_come_back_and_call_on() {
    let policy = format!(
        r#"
        allow "back to a" {{
          from    = ["spiffe://td/b"]
          to      = ["spiffe://td/a"]
          actions = ["/tasks"]
          reentry = 1
        }}
        {OPEN}"#
    );
    let fixture = Fixture::new(&policy);
    let at_a = fixture.walk(&["a", "b", "a"]);
    assert_eq!(at_a.hop(), 2);
    let permit = fixture.call("a", &at_a, "d", Grant::ByRule).unwrap();
    assert_eq!(permit.context().unwrap().hop(), 3);
    // Coming back a second time is once too often, and the rule is of the edge, not of the workload.
    assert_eq!(
        reason(fixture.try_forged(&["a", "b", "a", "b", "a"], |_, _| {})),
        Reason::CycleDetected
    );
    assert_eq!(
        reason(fixture.try_forged(&["a", "c", "a"], |_, _| {})),
        Reason::CycleDetected
    );
}

#[test]
fn case_11_a_task_that_lost_its_context_cannot_start_over() {
    let fixture = Fixture::new(OPEN);
    let at_b = fixture.walk(&["a", "b"]);
    drop(at_b);
    assert_eq!(
        refused_locally(fixture.prepare("b", CallOrigin::NewChain, "c", Grant::ByRule)),
        Reason::OriginationDenied
    );
    // An originator may; its loop becomes a burst of new chains, which have their own rate (case 10).
    assert!(
        fixture
            .prepare("a", CallOrigin::NewChain, "c", Grant::ByRule)
            .is_ok()
    );
}

#[test]
fn case_12_an_edge_is_named_by_whole_segments_of_canonical_ids() {
    let policy = r#"
        originate "a" {
          workloads  = ["spiffe://td/a"]
          new_chains = "10/s burst 10"
        }
        allow "pay" {
          from    = ["spiffe://td/a"]
          to      = ["spiffe://td/pay"]
          actions = ["/tasks"]
        }"#;
    let fixture = Fixture::new(policy);
    let pay = |name: &str| SpiffeId::parse(name).unwrap();
    let ask = |presented: &SpiffeId, path: &str| {
        let request = InboundRequest {
            presented,
            path,
            ..fixture.request("a", "b", FieldValues::default())
        };
        fixture
            .engine
            .decide(&fixture.policy, &request, fixture.at())
            .unwrap_err()
            .reason()
    };
    assert_eq!(
        ask(&pay("spiffe://td/pay"), "/tasks"),
        Reason::ChainRequired
    );
    for other in [
        "spiffe://td/payroll",
        "spiffe://td/pay/roll",
        "spiffe://other/pay",
    ] {
        assert_eq!(ask(&pay(other), "/tasks"), Reason::EdgeDenied, "{other}");
    }
    for path in [
        "/tasks/..",
        "/%2e",
        "/%2f",
        "/tasks%2F",
        "//tasks",
        "*",
        "",
        "td:443",
        "/task",
    ] {
        assert_eq!(
            ask(&pay("spiffe://td/pay"), path),
            Reason::ActionDenied,
            "{path}"
        );
    }
}

#[test]
fn case_12_an_empty_policy_refuses_every_edge() {
    let mut fixture = Fixture::new(OPEN);
    let call = fixture.forge(&["a", "b"], |_, _| {});
    for empty in [Policy::deny_all(), Policy::parse("").unwrap()] {
        fixture.policy = empty;
        assert_eq!(
            reason(fixture.deliver_forged(&["a", "b"], &call)),
            Reason::EdgeDenied
        );
    }
}

#[test]
fn case_12_a_request_without_a_peer_has_no_identity() {
    let fixture = Fixture::new(OPEN);
    let request = InboundRequest {
        peer: None,
        ..fixture.request("a", "b", FieldValues::default())
    };
    assert_eq!(
        reason(
            fixture
                .engine
                .decide(&fixture.policy, &request, fixture.at())
        ),
        Reason::NoPeerIdentity
    );
}

const GUARDED: &str = r#"
originate "work" {
  workloads  = ["spiffe://td/a", "spiffe://td/b"]
  new_chains = "100/s burst 100"
}
deny "nothing that passed c reaches e" {
  to          = ["spiffe://td/e"]
  deny_if_via = ["spiffe://td/c"]
}
allow "e serves a's work that passed d" {
  from        = ["spiffe://td/**"]
  to          = ["spiffe://td/e"]
  actions     = ["/tasks"]
  originators = ["spiffe://td/a"]
  require_via = ["spiffe://td/d"]
}
allow "the rest" {
  from    = ["spiffe://td/**"]
  to      = ["spiffe://td/a", "spiffe://td/b", "spiffe://td/c", "spiffe://td/d"]
  actions = ["/tasks"]
}
"#;

#[test]
fn deny_originators_and_require_via_judge_the_call_path() {
    let fixture = Fixture::new(GUARDED);
    assert!(fixture.try_forged(&["a", "d", "e"], |_, _| {}).is_ok());
    assert!(fixture.try_forged(&["a", "d", "b", "e"], |_, _| {}).is_ok());
    for (call_path, expected, rule) in [
        (
            &["a", "d", "c", "e"][..],
            Reason::PathDenied,
            "nothing that passed c reaches e",
        ),
        (
            &["a", "c", "d", "e"],
            Reason::PathDenied,
            "nothing that passed c reaches e",
        ),
        (
            &["a", "c", "e"],
            Reason::PathDenied,
            "nothing that passed c reaches e",
        ),
        (
            &["b", "d", "e"],
            Reason::OriginatorDenied,
            "e serves a's work that passed d",
        ),
        (
            &["a", "b", "e"],
            Reason::PathDenied,
            "e serves a's work that passed d",
        ),
        (
            &["a", "e"],
            Reason::PathDenied,
            "e serves a's work that passed d",
        ),
    ] {
        let refusal = fixture.try_forged(call_path, |_, _| {}).unwrap_err();
        assert_eq!(
            (refusal.reason(), refusal.rule()),
            (expected, Some(rule)),
            "{call_path:?}"
        );
    }
}

const OPTIONAL: &str = r#"
originate "a starts" {
  workloads  = ["spiffe://td/a", "spiffe://td/b"]
  new_chains = "100/s burst 100"
}
allow "the prober looks" {
  from    = ["spiffe://td/h"]
  to      = ["spiffe://td/b"]
  actions = ["/tasks"]
  chain   = "optional"
  rate    = "1/s burst 2"
}
allow "work" {
  from    = ["spiffe://td/a", "spiffe://td/b"]
  to      = ["spiffe://td/b", "spiffe://td/c"]
  actions = ["/tasks"]
}
"#;

#[test]
fn case_16_a_handler_under_an_optional_rule_cannot_call_on() {
    let fixture = Fixture::new(OPTIONAL);
    let request = fixture.request("h", "b", FieldValues::default());
    let permit = fixture
        .engine
        .decide(&fixture.policy, &request, fixture.at())
        .unwrap();
    assert_eq!(permit.rule(), "the prober looks");
    assert!(permit.context().is_none());
    // B may originate, but not from within this handler.
    assert_eq!(
        refused_locally(fixture.prepare("b", CallOrigin::NoOrigination, "c", Grant::ByRule)),
        Reason::OriginationDenied
    );
    assert!(
        fixture
            .prepare("b", CallOrigin::NewChain, "c", Grant::ByRule)
            .is_ok()
    );
}

#[test]
fn an_optional_chain_is_held_to_its_rate_and_to_its_form() {
    let fixture = Fixture::new(OPTIONAL);
    let ask = |fields| {
        let request = fixture.request("h", "b", fields);
        fixture
            .engine
            .decide(&fixture.policy, &request, fixture.at())
    };
    let stray = FieldValues {
        certs: FieldValue::One(b":gYCA:"),
        ..FieldValues::default()
    };
    assert_eq!(reason(ask(stray)), Reason::ChainMalformed);
    assert!(ask(FieldValues::default()).is_ok());
    assert!(ask(FieldValues::default()).is_ok());
    let refusal = ask(FieldValues::default()).unwrap_err();
    assert_eq!(refusal.reason(), Reason::RateLimited);
    assert_eq!(refusal.limit().unwrap().to_string(), "rate=1/s burst 2");
    assert_eq!(refusal.retry_after_secs(), Some(1));
}
