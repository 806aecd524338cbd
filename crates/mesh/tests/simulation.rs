//! Many honest pieces of work, and a few dishonest workloads (`docs/call-chains.md`, section 5).
//!
//! Honest workloads that keep to the split are never refused by the accounts, however their calls fall into a tree; and
//! dishonest ones get through to one callee process what the last honest link above them grants, and no more.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

#[path = "../fixture/workload.rs"]
mod workload;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::Bundles;
use countersign_identity::{BundleSet, KeyType, Now, PrivateKey, UnixTime};
use countersign_mesh::{
    CallOrigin, CallRequest, Carrier, Context, Engine, Grant, InboundRequest, OutboundError,
    OutgoingCall, Permit, Policy, Reason, Refusal, outbound,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use workload::{NOW, Workload, authority, bundle, fields};

const TREES: u64 = 400;
const WORKLOADS: usize = 6;

struct Fixture {
    bundles: Arc<dyn Bundles>,
    workloads: Vec<Workload>,
    policy: Policy,
    now: u64,
    mono: Duration,
}

impl Fixture {
    fn new(policy: &str) -> Self {
        let ca = authority("td");
        let bundle = bundle("td", vec![ca.authority().clone()]);
        let workload = |n| {
            let key = PrivateKey::generate(KeyType::EcP256).unwrap();
            Workload::new(&ca, &format!("spiffe://td/w/{n}"), key, (NOW - 60, 3_600))
        };
        Self {
            bundles: Arc::new([bundle].into_iter().collect::<BundleSet>()),
            workloads: (0..WORKLOADS).map(workload).collect(),
            policy: Policy::parse(policy).unwrap(),
            now: NOW,
            mono: Duration::from_secs(1),
        }
    }

    fn at(&self) -> Now {
        Now {
            wall: UnixTime::from_secs(self.now),
            mono: self.mono,
        }
    }

    fn engine(&self) -> Engine {
        Engine::new(Arc::clone(&self.bundles))
    }

    fn prepare(
        &self,
        from: usize,
        context: &Context,
        to: usize,
        grant: Grant,
    ) -> Result<OutgoingCall, OutboundError> {
        let call = CallRequest {
            callee: &self.workloads[to].id,
            method: "POST",
            path: "/work",
            grant,
        };
        outbound::prepare(
            &self.policy,
            &self.workloads[from].identity,
            CallOrigin::Context(context),
            &call,
            self.at(),
        )
    }

    fn deliver(
        &self,
        engine: &Engine,
        from: usize,
        to: usize,
        call: &OutgoingCall,
    ) -> Result<Permit, Refusal> {
        let peer = &self.workloads[from];
        let chain = call.chain_value(Carrier::Grpc);
        let certs = call.certs_value(Carrier::Grpc);
        let request = InboundRequest {
            peer: Some(peer.peer()),
            presented: &self.workloads[to].id,
            method: "POST",
            path: "/work",
            carrier: Carrier::Grpc,
            fields: fields(Carrier::Grpc, &chain, certs.as_deref()),
        };
        engine.decide(&self.policy, &request, self.at())
    }
}

/// Any workload may call any other, as often as it likes on one edge.
fn policy(budget: u16, max_hops: u8) -> String {
    format!(
        r#"
        originate "the first starts" {{
          workloads  = ["spiffe://td/w/0"]
          new_chains = "1000000/s burst 1000000"
          budget     = {budget}
          max_hops   = {max_hops}
          deadline   = "1h"
        }}
        allow "everybody" {{
          from            = ["spiffe://td/w/*"]
          to              = ["spiffe://td/w/*"]
          actions         = ["/work"]
          rate            = "1000000/s burst 1000000"
          max_hops        = {max_hops}
          calls_per_chain = 65535
          reentry         = 15
        }}"#
    )
}

/// One honest piece of work: every workload calls others at random, with any grant, until nothing is left. Answers come
/// in any order, so that calls of one tree meet the callees in any order too.
fn honest_tree(fixture: &Fixture, engines: &[Engine], random: &mut StdRng) -> usize {
    let at = fixture.at();
    let start = outbound::start(&fixture.policy, &fixture.workloads[0].identity, at).unwrap();
    let mut active = vec![(0, start)];
    let mut calls = 0;
    while !active.is_empty() {
        let chosen = random.random_range(0..active.len());
        let (from, context) = (active[chosen].0, active[chosen].1.clone());
        let is_done = context.remaining() == 0
            || context.hop() >= context.max_hops()
            || random.random_ratio(1, 12);
        if is_done {
            active.swap_remove(chosen);
            continue;
        }
        let to = random.random_range(0..WORKLOADS);
        let grant = match random.random_range(0..4) {
            0 => Grant::Exactly(random.random_range(0..40)),
            1 => context.split(NonZeroU16::new(random.random_range(1..5)).unwrap()),
            _ => Grant::ByRule,
        };
        let call = fixture.prepare(from, &context, to, grant).unwrap();
        let permit = fixture.deliver(&engines[to], from, to, &call);
        let permit =
            permit.unwrap_or_else(|refusal| panic!("an honest call was refused: {refusal:?}"));
        calls += 1;
        active.push((to, permit.context().unwrap().clone()));
    }
    calls
}

#[test]
fn four_hundred_honest_call_trees_see_no_refusal() {
    let mut random = StdRng::seed_from_u64(20_261_122);
    let mut calls = 0;
    for shape in 0..8_u64 {
        let budget = random.random_range(5..=256);
        let mut fixture = Fixture::new(&policy(budget, random.random_range(3..=9)));
        // Six callee processes that live through many pieces of work.
        let engines: Vec<_> = (0..WORKLOADS).map(|_| fixture.engine()).collect();
        for _ in 0..TREES / 8 {
            calls += honest_tree(&fixture, &engines, &mut random);
            fixture.now += shape;
            fixture.mono += Duration::from_millis(1);
        }
    }
    assert!(
        calls > 2_000,
        "only {calls} calls: the trees are too small to show anything"
    );
}

/// A context for `names` below an honest first call with this budget, taken by a workload that keeps to nothing: each
/// time it asks, a fresh engine gives it a fresh ledger.
fn rogue_context(fixture: &Fixture, call: &OutgoingCall, from: usize, to: usize) -> Context {
    fixture
        .deliver(&fixture.engine(), from, to, call)
        .unwrap()
        .context()
        .unwrap()
        .clone()
}

#[test]
fn a_rogue_with_a_budget_of_three_gets_three_calls_of_10_000() {
    let mut fixture = Fixture::new(&policy(256, 5));
    let callee = fixture.engine();
    let start = outbound::start(
        &fixture.policy,
        &fixture.workloads[0].identity,
        fixture.at(),
    )
    .unwrap();
    let granted = fixture.prepare(0, &start, 1, Grant::Exactly(3)).unwrap();
    let mut served = 0;
    for round in 0..10_000 {
        // The rogue copies its context: every call is paid from a full ledger.
        if round % 50 == 0 {
            fixture.mono += Duration::from_secs(3);
        }
        let context = rogue_context(&fixture, &granted, 0, 1);
        let call = fixture.prepare(1, &context, 2, Grant::Exactly(0)).unwrap();
        match fixture.deliver(&callee, 1, 2, &call) {
            Ok(permit) => served += usize::from(permit.context().is_some()),
            Err(refusal) => assert_eq!(
                refusal.reason(),
                Reason::ChainBudgetExhausted,
                "{refusal:?}"
            ),
        }
    }
    assert_eq!(served, 3);
}

#[test]
fn two_colluders_with_a_budget_of_15_get_15_calls() {
    let mut fixture = Fixture::new(&policy(256, 5));
    let callee = fixture.engine();
    let start = outbound::start(
        &fixture.policy,
        &fixture.workloads[0].identity,
        fixture.at(),
    )
    .unwrap();
    let granted = fixture.prepare(0, &start, 1, Grant::Exactly(15)).unwrap();
    let mut served = 0;
    for round in 0..5_000 {
        if round % 50 == 0 {
            fixture.mono += Duration::from_secs(3);
        }
        // The first colluder calls by itself, and hands all it has to the second, which calls too.
        let first = rogue_context(&fixture, &granted, 0, 1);
        let direct = fixture.prepare(1, &first, 3, Grant::Exactly(0)).unwrap();
        served += usize::from(fixture.deliver(&callee, 1, 3, &direct).is_ok());
        let first = rogue_context(&fixture, &granted, 0, 1);
        let handed = fixture
            .prepare(1, &first, 2, Grant::Exactly(u16::MAX))
            .unwrap();
        let second = rogue_context(&fixture, &handed, 1, 2);
        let indirect = fixture.prepare(2, &second, 3, Grant::Exactly(0)).unwrap();
        served += usize::from(fixture.deliver(&callee, 2, 3, &indirect).is_ok());
    }
    assert_eq!(served, 15);
}
