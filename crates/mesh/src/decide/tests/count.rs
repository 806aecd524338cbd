//! Budgets, accounts, rates and shares: cases 10 and 13.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::Bundles;

use crate::context::Grant;
use crate::decide::{Engine, FieldValues};
use crate::fixture::{Fixture, Forged, OPEN, Trust, fresh, reason};
use crate::limits::Capacity;
use crate::outbound::CallOrigin;
use crate::refusal::Reason;

/// Calls from B to C below one first link with this budget, by a B that forgets what it has spent.
fn below(fixture: &Fixture, budget: u16, first: &crate::fixture::Forgery) -> Result<(), Reason> {
    let chain = crate::Chain::decode(first.bytes.clone()).unwrap();
    let claims = crate::chain::Claims {
        aud: fixture.get("c").id.clone(),
        cti: fresh(),
        budget: budget - 1,
        ..chain.links()[0].claims.clone()
    };
    let before = crate::chain::codec::prefix_after(&crate::chain::NO_LINKS, &first.links[0]);
    let link = fixture
        .get("b")
        .identity
        .sign_link(&claims, None, &before)
        .unwrap();
    let bytes = crate::chain::codec::append(&first.bytes, 1, &link);
    let certs = crate::chain::CertSet::encode([fixture.get("a").leaf()], []).unwrap();
    fixture
        .deliver(&fixture.engine, "b", "c", &bytes, Some(&certs))
        .map(drop)
        .map_err(|refusal| refusal.reason())
}

#[test]
fn case_10_siblings_over_the_parents_budget_are_refused() {
    let mut fixture = Fixture::new(OPEN);
    let first = fixture.forge(&["a", "b"], |_, forged| forged.claims.budget = 7);
    let mut served = 0;
    for _ in 0..100 {
        match below(&fixture, 7, &first) {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        // Slow enough for the failure bucket.
        fixture.mono += Duration::from_millis(100);
    }
    assert_eq!(served, 7);
}

#[test]
fn case_10_two_colluders_share_the_budget_above_them() {
    let mut fixture = Fixture::new(OPEN);
    // B has 7 calls; it hands D 6 of them and uses all 7 itself. Both call C.
    let names = ["a", "b", "d", "c"];
    let budget = |i: usize, forged: &mut Forged| forged.claims.budget = [7, 6, 5][i];
    let chain = |first: &[u8], fixture: &Fixture| {
        let mut forgery = fixture.forge(&names, budget);
        forgery.links[0] = first.to_vec();
        forgery
    };
    let first = fixture.forge(&["a", "b"], |_, forged| forged.claims.budget = 7);
    let hash = |before, link: &[u8]| crate::chain::codec::prefix_after(before, link);
    let p1 = hash(&crate::chain::NO_LINKS, &first.links[0]);
    let template = chain(&first.links[0], &fixture);
    let claims = |i: usize| {
        let decoded = crate::Chain::decode(chain_bytes(&template)).unwrap();
        decoded.links()[i].claims.clone()
    };
    let second = fixture
        .get("b")
        .identity
        .sign_link(&claims(1), None, &p1)
        .unwrap();
    let p2 = hash(&p1, &second);
    let mut served = 0;
    for round in 0..100 {
        let result = if round % 2 == 0 {
            below(&fixture, 7, &first)
        } else {
            let last = crate::chain::Claims {
                cti: fresh(),
                ..claims(2)
            };
            let third = fixture
                .get("d")
                .identity
                .sign_link(&last, None, &p2)
                .unwrap();
            let append = crate::chain::codec::append;
            let bytes = append(&append(&first.bytes, 1, &second), 2, &third);
            let leaves = [fixture.get("a").leaf(), fixture.get("b").leaf()];
            let certs = crate::chain::CertSet::encode(leaves, []).unwrap();
            fixture
                .deliver(&fixture.engine, "d", "c", &bytes, Some(&certs))
                .map(drop)
                .map_err(|r| r.reason())
        };
        match result {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        fixture.mono += Duration::from_millis(100);
    }
    assert_eq!(served, 7);
}

fn chain_bytes(forgery: &crate::fixture::Forgery) -> Vec<u8> {
    let append = crate::chain::codec::append;
    forgery
        .links
        .iter()
        .enumerate()
        .fold(Vec::new(), |bytes, (i, link)| append(&bytes, i, link))
}

#[test]
fn case_10_a_shortened_deadline_keeps_the_chains_counters() {
    let policy = OPEN.replace("rate ", "calls_per_chain = 3\n  rate ");
    let mut fixture = Fixture::new(&policy);
    let first = fixture.forge(&["a", "b"], |_, _| {});
    let hurried = |fixture: &Fixture| {
        let claims = crate::chain::Claims {
            aud: fixture.get("c").id.clone(),
            cti: fresh(),
            exp: fixture.now + 1,
            iat: fixture.now,
            budget: 0,
            ..crate::Chain::decode(first.bytes.clone()).unwrap().links()[0]
                .claims
                .clone()
        };
        let before = crate::chain::codec::prefix_after(&crate::chain::NO_LINKS, &first.links[0]);
        let link = fixture
            .get("b")
            .identity
            .sign_link(&claims, None, &before)
            .unwrap();
        let bytes = crate::chain::codec::append(&first.bytes, 1, &link);
        let certs = crate::chain::CertSet::encode([fixture.get("a").leaf()], []).unwrap();
        fixture
            .deliver(&fixture.engine, "b", "c", &bytes, Some(&certs))
            .map(drop)
            .map_err(|refusal| refusal.reason())
    };
    let mut served = 0;
    for _ in 0..10 {
        match hurried(&fixture) {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        // Every part of the maps has its turn.
        for _ in 0..20 {
            fixture.pass(1);
            let _ = fixture.deliver(&fixture.engine, "h", "c", b"rubbish", None);
        }
    }
    assert_eq!(served, 3);
}

#[test]
fn case_10_a_fan_out_ends_at_the_budget() {
    let policy = OPEN.replace(
        "burst 1000\"",
        "burst 1000\"\n  budget = 100\n  max_hops = 16",
    );
    let policy = policy.replace(
        "rate ",
        "reentry = 15\n  calls_per_chain = 1000\n  max_hops = 16\n  rate ",
    );
    let fixture = Fixture::new(&policy);
    // Every call makes two more, as long as anything is left.
    let mut calls = 0;
    let mut open = vec![("a", fixture.start("a"))];
    while let Some((name, context)) = open.pop() {
        let share = context.split(std::num::NonZeroU16::new(2).unwrap());
        let next = if name == "b" { "c" } else { "b" };
        for _ in 0..2 {
            let Ok(call) = fixture.prepare(name, CallOrigin::Context(&context), next, share) else {
                continue;
            };
            calls += 1;
            let permit = fixture
                .deliver(
                    &fixture.engine,
                    name,
                    next,
                    call.chain_bytes(),
                    call.certs_bytes(),
                )
                .unwrap();
            open.push((next, permit.context().unwrap().clone()));
        }
    }
    assert!(calls <= 100, "{calls} calls");
    assert!(calls >= 50, "{calls} calls");
}

#[test]
fn case_10_new_chains_have_their_own_rate() {
    let policy = OPEN.replace("1000/s burst 1000", "1/m burst 2");
    let fixture = Fixture::new(&policy);
    let work = fixture.start("a");
    for _ in 0..10 {
        assert!(fixture.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    }
    assert!(
        fixture
            .call("a", &fixture.start("a"), "b", Grant::Exactly(0))
            .is_ok()
    );
    let refusal = fixture
        .call("a", &fixture.start("a"), "b", Grant::Exactly(0))
        .unwrap_err();
    assert_eq!(refusal.reason(), Reason::NewChainRateLimited);
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(60)));
    // What was open stays open.
    assert!(fixture.call("a", &work, "b", Grant::Exactly(0)).is_ok());
}

#[test]
fn a_refused_call_gives_back_its_grant_and_keeps_the_one() {
    let fixture = Fixture::new(OPEN);
    let work = fixture.start("a");
    let call = fixture
        .prepare("a", CallOrigin::Context(&work), "b", Grant::Exactly(100))
        .unwrap();
    assert_eq!(work.remaining(), 155);
    call.refused(Reason::EdgeDenied);
    call.refused(Reason::EdgeDenied);
    assert_eq!(work.remaining(), 255);
    let call = fixture
        .prepare("a", CallOrigin::Context(&work), "b", Grant::Exactly(100))
        .unwrap();
    call.refused(Reason::PolicyDenied);
    assert_eq!(work.remaining(), 154);
}

#[test]
fn what_step_eleven_refuses_is_given_back() {
    let policy = OPEN.replace(
        "rate    = \"100000/s burst 100000\"",
        "rate = \"1/h burst 1\"\n  calls_per_chain = 1",
    );
    let fixture = Fixture::new(&policy);
    let work = fixture.start("a");
    fixture
        .call("a", &work, "b", Grant::ByRule)
        .unwrap()
        .refund();
    let permit = fixture.call("a", &work, "b", Grant::ByRule).unwrap();
    assert_eq!(
        reason(fixture.call("a", &work, "b", Grant::ByRule)),
        Reason::RateLimited
    );
    permit.refund();
    assert!(fixture.call("a", &work, "b", Grant::ByRule).is_ok());
}

#[test]
fn a_refusal_in_step_nine_undoes_what_the_request_charged() {
    let policy = OPEN.replace(
        "rate    = \"100000/s burst 100000\"",
        "rate = \"1/h burst 3\"\n  calls_per_chain = 2",
    );
    let fixture = Fixture::new(&policy);
    let work = fixture.start("a");
    assert!(fixture.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    assert!(fixture.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    for _ in 0..5 {
        // The rate has room for one more, the chain has not; so the rate stays as it is.
        assert_eq!(
            reason(fixture.call("a", &work, "b", Grant::Exactly(0))),
            Reason::ChainBudgetExhausted
        );
    }
    assert!(
        fixture
            .call("a", &fixture.start("a"), "b", Grant::Exactly(0))
            .is_ok()
    );
    let last = fixture.start("a");
    let refused = fixture.forge(&["a", "b"], |_, _| {});
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b"], &refused)),
        Reason::RateLimited
    );
    assert_eq!(
        reason(fixture.call("a", &last, "b", Grant::Exactly(0))),
        Reason::RateLimited
    );
}

#[test]
fn case_13_a_peer_without_an_edge_is_neither_read_nor_charged() {
    let policy = OPEN.replace(
        "from    = [\"spiffe://td/**\"]",
        "from = [\"spiffe://td/a\"]",
    );
    let fixture = Fixture::new(&policy);
    for _ in 0..500 {
        // Not even well-formed, and still the answer is about the edge.
        let result = fixture.deliver(&fixture.engine, "h", "b", b"rubbish", None);
        assert_eq!(reason(result), Reason::EdgeDenied);
    }
}

#[test]
fn case_13_refusals_exhaust_only_the_peers_failure_bucket() {
    let mut fixture = Fixture::new(OPEN);
    let rubbish =
        |fixture: &Fixture| reason(fixture.deliver(&fixture.engine, "h", "b", b"rubbish", None));
    for _ in 0..100 {
        assert_eq!(rubbish(&fixture), Reason::ChainMalformed);
    }
    assert_eq!(rubbish(&fixture), Reason::RateLimited);
    assert!(fixture.try_forged(&["a", "b"], |_, _| {}).is_ok());
    fixture.mono += Duration::from_millis(50);
    assert_eq!(rubbish(&fixture), Reason::ChainMalformed);
    assert_eq!(rubbish(&fixture), Reason::RateLimited);
}

fn small(calls: usize, counters: usize) -> (Fixture, Engine) {
    let fixture = Fixture::new(&OPEN.replace(
        r#"["spiffe://td/a"]"#,
        r#"["spiffe://td/a", "spiffe://td/h"]"#,
    ));
    let capacity = Capacity {
        calls,
        counters,
        ..Capacity::default()
    };
    let engine = Engine::with_capacity(Arc::clone(&fixture.trust) as Arc<dyn Bundles>, &capacity);
    (fixture, engine)
}

#[test]
fn case_13_one_peers_flood_leaves_the_map_share_of_another() {
    for (calls, counters) in [(40, 1_000), (1_000, 40)] {
        let (fixture, engine) = small(calls, counters);
        let flood = |name: &str| {
            let call = fixture.forge(&[name, "b"], |_, _| {});
            fixture
                .deliver(&engine, name, "b", &call.bytes, None)
                .map(drop)
                .map_err(|r| r.reason())
        };
        let served = (0..60).filter(|_| flood("h") == Ok(())).count();
        assert!(served <= 20, "{served} served");
        assert_eq!(flood("h"), Err(Reason::RateLimited));
        assert_eq!(flood("a"), Ok(()));
    }
}

#[test]
fn case_13_what_is_over_makes_room_again() {
    let (mut fixture, engine) = small(40, 1_000);
    let flood = |fixture: &Fixture| {
        let call = fixture.forge(&["h", "b"], |_, _| {});
        fixture
            .deliver(&engine, "h", "b", &call.bytes, None)
            .is_ok()
    };
    assert_eq!((0..60).filter(|_| flood(&fixture)).count(), 20);
    fixture.pass(200);
    assert_eq!((0..60).filter(|_| flood(&fixture)).count(), 20);
}

#[test]
fn case_13_fresh_keys_refill_nothing() {
    let policy = OPEN.replace("1000/s burst 1000", "1/h burst 3");
    let fixture = Fixture::new(&policy);
    let mut served = 0;
    for _ in 0..2_000 {
        // A fresh chain, a fresh call: nothing that is counted by them helps with the originator's own rate.
        let call = fixture.forge(&["a", "b"], |_, _| {});
        served += usize::from(fixture.deliver_forged(&["a", "b"], &call).is_ok());
    }
    assert_eq!(served, 3);
}

#[test]
fn case_13_a_clock_going_back_refills_nothing() {
    let mut fixture = Fixture::new(OPEN);
    let names = ["a", "b", "c"];
    let first = fixture.forge(&["a", "b"], |_, forged| forged.claims.budget = 1);
    assert_eq!(below(&fixture, 1, &first), Ok(()));
    let call = fixture.forge(&names, |_, _| {});
    assert!(fixture.deliver_forged(&names, &call).is_ok());
    // Long after everything has been forgotten, the clock is set back.
    for _ in 0..40 {
        fixture.pass(60);
        let _ = fixture.engine.decide(
            &fixture.policy,
            &fixture.request("a", "b", FieldValues::default()),
            fixture.at(),
        );
    }
    fixture.now -= 40 * 60;
    fixture.mono += Duration::from_secs(60);
    assert!(matches!(
        reason(fixture.deliver_forged(&names, &call)),
        Reason::ChainStale | Reason::ChainReplayed
    ));
    assert_ne!(below(&fixture, 1, &first), Ok(()));
}

#[test]
fn a_peer_table_without_room_refuses_the_newcomer_only() {
    let fixture = Fixture::new(OPEN);
    let capacity = Capacity {
        peers: 1,
        ..Capacity::default()
    };
    let trust: Arc<Trust> = Arc::clone(&fixture.trust);
    let engine = Engine::with_capacity(trust, &capacity);
    let at_b = fixture.walk(&["a", "b"]);
    assert!(
        fixture
            .call_at(&engine, "a", &fixture.start("a"), "c", Grant::Exactly(0))
            .is_ok()
    );
    assert_eq!(
        reason(fixture.call_at(&engine, "b", &at_b, "c", Grant::Exactly(0))),
        Reason::RateLimited
    );
    assert!(
        fixture
            .call_at(&engine, "a", &fixture.start("a"), "c", Grant::Exactly(0))
            .is_ok()
    );
}
