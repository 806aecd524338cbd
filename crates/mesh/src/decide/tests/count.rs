//! Budgets, accounts, rates and shares: cases 10 and 13.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::Bundles;

use crate::decide::{Engine, FieldValues};
use crate::limits::Capacity;
use crate::outbound::{Grant, CallOrigin};
use crate::refusal::Reason;
use crate::world::{Forged, OPEN, Trust, World, fresh, reason};

/// Calls from B to C below one first link with this budget, by a B that forgets what it has spent.
fn below(world: &World, budget: u16, first: &crate::world::Forgery) -> Result<(), Reason> {
    let chain = crate::Chain::decode(first.bytes.clone()).unwrap();
    let claims = crate::chain::Claims {
        aud: world.get("c").id.clone(),
        cti: fresh(),
        budget: budget - 1,
        ..chain.links()[0].claims.clone()
    };
    let before = crate::chain::codec::prefix_after(&crate::chain::NO_LINKS, &first.links[0]);
    let link = world
        .get("b")
        .identity
        .sign_link(&claims, None, &before)
        .unwrap();
    let bytes = crate::chain::codec::append(&first.bytes, 1, &link);
    let certs = crate::chain::CertSet::encode([world.get("a").leaf()], []).unwrap();
    world
        .deliver(&world.engine, "b", "c", &bytes, Some(&certs))
        .map(drop)
        .map_err(|refusal| refusal.reason())
}

#[test]
fn case_10_siblings_over_the_parents_budget_are_refused() {
    let mut world = World::new(OPEN);
    let first = world.forge(&["a", "b"], |_, forged| forged.claims.budget = 7);
    let mut served = 0;
    for _ in 0..100 {
        match below(&world, 7, &first) {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        // Slow enough for the failure bucket.
        world.mono += Duration::from_millis(100);
    }
    assert_eq!(served, 7);
}

#[test]
fn case_10_two_colluders_share_the_budget_above_them() {
    let mut world = World::new(OPEN);
    // B has 7 calls; it hands D 6 of them and uses all 7 itself. Both call C.
    let names = ["a", "b", "d", "c"];
    let budget = |i: usize, forged: &mut Forged| forged.claims.budget = [7, 6, 5][i];
    let chain = |first: &[u8], world: &World| {
        let mut forgery = world.forge(&names, budget);
        forgery.links[0] = first.to_vec();
        forgery
    };
    let first = world.forge(&["a", "b"], |_, forged| forged.claims.budget = 7);
    let hash = |before, link: &[u8]| crate::chain::codec::prefix_after(before, link);
    let p1 = hash(&crate::chain::NO_LINKS, &first.links[0]);
    let template = chain(&first.links[0], &world);
    let claims = |i: usize| {
        let decoded = crate::Chain::decode(world_bytes(&template)).unwrap();
        decoded.links()[i].claims.clone()
    };
    let second = world
        .get("b")
        .identity
        .sign_link(&claims(1), None, &p1)
        .unwrap();
    let p2 = hash(&p1, &second);
    let mut served = 0;
    for round in 0..100 {
        let result = if round % 2 == 0 {
            below(&world, 7, &first)
        } else {
            let last = crate::chain::Claims {
                cti: fresh(),
                ..claims(2)
            };
            let third = world.get("d").identity.sign_link(&last, None, &p2).unwrap();
            let append = crate::chain::codec::append;
            let bytes = append(&append(&first.bytes, 1, &second), 2, &third);
            let leaves = [world.get("a").leaf(), world.get("b").leaf()];
            let certs = crate::chain::CertSet::encode(leaves, []).unwrap();
            world
                .deliver(&world.engine, "d", "c", &bytes, Some(&certs))
                .map(drop)
                .map_err(|r| r.reason())
        };
        match result {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        world.mono += Duration::from_millis(100);
    }
    assert_eq!(served, 7);
}

fn world_bytes(forgery: &crate::world::Forgery) -> Vec<u8> {
    let append = crate::chain::codec::append;
    forgery
        .links
        .iter()
        .enumerate()
        .fold(Vec::new(), |bytes, (i, link)| append(&bytes, i, link))
}

#[test]
fn case_10_a_rogue_that_shortens_the_deadline_does_not_empty_the_chains_counters() {
    let policy = OPEN.replace("rate ", "calls_per_chain = 3\n  rate ");
    let mut world = World::new(&policy);
    let first = world.forge(&["a", "b"], |_, _| {});
    let hurried = |world: &World| {
        let claims = crate::chain::Claims {
            aud: world.get("c").id.clone(),
            cti: fresh(),
            exp: world.now + 1,
            iat: world.now,
            budget: 0,
            ..crate::Chain::decode(first.bytes.clone()).unwrap().links()[0]
                .claims
                .clone()
        };
        let before = crate::chain::codec::prefix_after(&crate::chain::NO_LINKS, &first.links[0]);
        let link = world
            .get("b")
            .identity
            .sign_link(&claims, None, &before)
            .unwrap();
        let bytes = crate::chain::codec::append(&first.bytes, 1, &link);
        let certs = crate::chain::CertSet::encode([world.get("a").leaf()], []).unwrap();
        world
            .deliver(&world.engine, "b", "c", &bytes, Some(&certs))
            .map(drop)
            .map_err(|refusal| refusal.reason())
    };
    let mut served = 0;
    for _ in 0..10 {
        match hurried(&world) {
            Ok(()) => served += 1,
            Err(refused) => assert_eq!(refused, Reason::ChainBudgetExhausted),
        }
        // Every part of the maps has its turn.
        for _ in 0..20 {
            world.pass(1);
            let _ = world.deliver(&world.engine, "h", "c", b"rubbish", None);
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
    let world = World::new(&policy);
    // Every call makes two more, as long as anything is left.
    let mut calls = 0;
    let mut open = vec![("a", world.start("a"))];
    while let Some((name, context)) = open.pop() {
        let share = context.split(std::num::NonZeroU16::new(2).unwrap());
        let next = if name == "b" { "c" } else { "b" };
        for _ in 0..2 {
            let Ok(call) = world.prepare(name, CallOrigin::Context(&context), next, share) else {
                continue;
            };
            calls += 1;
            let permit = world
                .deliver(
                    &world.engine,
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
    let world = World::new(&policy);
    let work = world.start("a");
    for _ in 0..10 {
        assert!(world.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    }
    assert!(
        world
            .call("a", &world.start("a"), "b", Grant::Exactly(0))
            .is_ok()
    );
    let refusal = world
        .call("a", &world.start("a"), "b", Grant::Exactly(0))
        .unwrap_err();
    assert_eq!(refusal.reason(), Reason::NewChainRateLimited);
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(60)));
    // What was open stays open.
    assert!(world.call("a", &work, "b", Grant::Exactly(0)).is_ok());
}

#[test]
fn a_refused_call_gives_back_its_grant_and_keeps_the_one() {
    let world = World::new(OPEN);
    let work = world.start("a");
    let call = world
        .prepare("a", CallOrigin::Context(&work), "b", Grant::Exactly(100))
        .unwrap();
    assert_eq!(work.remaining(), 155);
    call.refused(Reason::EdgeDenied);
    call.refused(Reason::EdgeDenied);
    assert_eq!(work.remaining(), 255);
    let call = world
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
    let world = World::new(&policy);
    let work = world.start("a");
    world
        .call("a", &work, "b", Grant::ByRule)
        .unwrap()
        .give_back();
    let permit = world.call("a", &work, "b", Grant::ByRule).unwrap();
    assert_eq!(
        reason(world.call("a", &work, "b", Grant::ByRule)),
        Reason::RateLimited
    );
    permit.give_back();
    assert!(world.call("a", &work, "b", Grant::ByRule).is_ok());
}

#[test]
fn a_refusal_in_step_nine_undoes_what_the_request_charged() {
    let policy = OPEN.replace(
        "rate    = \"100000/s burst 100000\"",
        "rate = \"1/h burst 3\"\n  calls_per_chain = 2",
    );
    let world = World::new(&policy);
    let work = world.start("a");
    assert!(world.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    assert!(world.call("a", &work, "b", Grant::Exactly(0)).is_ok());
    for _ in 0..5 {
        // The rate has room for one more, the chain has not; so the rate stays as it is.
        assert_eq!(
            reason(world.call("a", &work, "b", Grant::Exactly(0))),
            Reason::ChainBudgetExhausted
        );
    }
    assert!(
        world
            .call("a", &world.start("a"), "b", Grant::Exactly(0))
            .is_ok()
    );
    let last = world.start("a");
    let refused = world.forge(&["a", "b"], |_, _| {});
    assert_eq!(
        reason(world.deliver_forged(&["a", "b"], &refused)),
        Reason::RateLimited
    );
    assert_eq!(
        reason(world.call("a", &last, "b", Grant::Exactly(0))),
        Reason::RateLimited
    );
}

#[test]
fn case_13_a_peer_without_an_edge_costs_no_decoding_and_is_not_charged() {
    let policy = OPEN.replace(
        "from    = [\"spiffe://td/**\"]",
        "from = [\"spiffe://td/a\"]",
    );
    let world = World::new(&policy);
    for _ in 0..500 {
        // Not even well-formed, and still the answer is about the edge.
        let result = world.deliver(&world.engine, "h", "b", b"rubbish", None);
        assert_eq!(reason(result), Reason::EdgeDenied);
    }
}

#[test]
fn case_13_refused_requests_exhaust_only_the_peers_failure_bucket() {
    let mut world = World::new(OPEN);
    let rubbish = |world: &World| reason(world.deliver(&world.engine, "h", "b", b"rubbish", None));
    for _ in 0..100 {
        assert_eq!(rubbish(&world), Reason::ChainMalformed);
    }
    assert_eq!(rubbish(&world), Reason::RateLimited);
    assert!(world.try_forged(&["a", "b"], |_, _| {}).is_ok());
    world.mono += Duration::from_millis(50);
    assert_eq!(rubbish(&world), Reason::ChainMalformed);
    assert_eq!(rubbish(&world), Reason::RateLimited);
}

fn small(calls: usize, counters: usize) -> (World, Engine) {
    let world = World::new(&OPEN.replace(
        r#"["spiffe://td/a"]"#,
        r#"["spiffe://td/a", "spiffe://td/h"]"#,
    ));
    let capacity = Capacity {
        calls,
        counters,
        ..Capacity::default()
    };
    let engine = Engine::with_capacity(Arc::clone(&world.trust) as Arc<dyn Bundles>, &capacity);
    (world, engine)
}

#[test]
fn case_13_one_peers_flood_leaves_the_map_share_of_another() {
    for (calls, counters) in [(40, 1_000), (1_000, 40)] {
        let (world, engine) = small(calls, counters);
        let flood = |name: &str| {
            let call = world.forge(&[name, "b"], |_, _| {});
            world
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
    let (mut world, engine) = small(40, 1_000);
    let flood = |world: &World| {
        let call = world.forge(&["h", "b"], |_, _| {});
        world.deliver(&engine, "h", "b", &call.bytes, None).is_ok()
    };
    assert_eq!((0..60).filter(|_| flood(&world)).count(), 20);
    world.pass(200);
    assert_eq!((0..60).filter(|_| flood(&world)).count(), 20);
}

#[test]
fn case_13_fresh_keys_refill_nothing() {
    let policy = OPEN.replace("1000/s burst 1000", "1/h burst 3");
    let world = World::new(&policy);
    let mut served = 0;
    for _ in 0..2_000 {
        // A fresh chain, a fresh call: nothing that is counted by them helps with the originator's own rate.
        let call = world.forge(&["a", "b"], |_, _| {});
        served += usize::from(world.deliver_forged(&["a", "b"], &call).is_ok());
    }
    assert_eq!(served, 3);
}

#[test]
fn case_13_a_clock_going_back_refills_nothing() {
    let mut world = World::new(OPEN);
    let names = ["a", "b", "c"];
    let first = world.forge(&["a", "b"], |_, forged| forged.claims.budget = 1);
    assert_eq!(below(&world, 1, &first), Ok(()));
    let call = world.forge(&names, |_, _| {});
    assert!(world.deliver_forged(&names, &call).is_ok());
    // Long after everything has been forgotten, the clock is set back.
    for _ in 0..40 {
        world.pass(60);
        let _ = world.engine.decide(
            &world.policy,
            &world.request("a", "b", FieldValues::default()),
            world.at(),
        );
    }
    world.now -= 40 * 60;
    world.mono += Duration::from_secs(60);
    assert!(matches!(
        reason(world.deliver_forged(&names, &call)),
        Reason::ChainStale | Reason::ChainReplayed
    ));
    assert_ne!(below(&world, 1, &first), Ok(()));
}

#[test]
fn a_peer_table_without_room_refuses_the_newcomer_only() {
    let world = World::new(OPEN);
    let capacity = Capacity {
        peers: 1,
        ..Capacity::default()
    };
    let trust: Arc<Trust> = Arc::clone(&world.trust);
    let engine = Engine::with_capacity(trust, &capacity);
    let at_b = world.walk(&["a", "b"]);
    assert!(
        world
            .call_at(&engine, "a", &world.start("a"), "c", Grant::Exactly(0))
            .is_ok()
    );
    assert_eq!(
        reason(world.call_at(&engine, "b", &at_b, "c", Grant::Exactly(0))),
        Reason::RateLimited
    );
    assert!(
        world
            .call_at(&engine, "a", &world.start("a"), "c", Grant::Exactly(0))
            .is_ok()
    );
}
