//! Certificates, bundles and rotation: cases 14 and 15.

use countersign_identity::{KeyType, PrivateKey};

use crate::chain::CertSet;
use crate::decide::{FieldValues, InboundRequest};
use crate::outbound::{Grant, CallOrigin};
use crate::refusal::Reason;
use crate::world::{Forged, NOW, OPEN, Workload, World, authority, reason};

#[test]
fn case_14_a_foreign_certificate_over_the_same_key_disturbs_nobody() {
    let world = World::new(OPEN);
    let foreign_ca = authority("other");
    world
        .trust
        .set("other", vec![foreign_ca.authority().clone()]);
    let key: PrivateKey = world.get("a").key.clone();
    let foreign = Workload::with_key(&foreign_ca, "spiffe://other/a", key, (NOW - 60, 3_600));
    let names = ["a", "b", "c"];
    let call = world.forge(&names, |_, _| {});
    // The foreign certificate comes first, then alone, then after A's was verified.
    let leaves = [foreign.leaf(), world.get("a").leaf()];
    let both = CertSet::encode(leaves, []).unwrap();
    let alone = CertSet::encode([foreign.leaf()], []).unwrap();
    let ask = |certs: &[u8]| world.deliver(&world.engine, "b", "c", &call.bytes, Some(certs));
    assert_eq!(reason(ask(&alone)), Reason::ChainKeyUnknown);
    assert!(ask(&both).is_ok());
    let again = world.forge(&names, |_, _| {});
    assert!(
        world
            .deliver(&world.engine, "b", "c", &again.bytes, Some(&alone))
            .is_ok()
    );
    // An own authority does not make the foreign trust domain's ID.
    let lie = Workload::with_key(
        &foreign_ca,
        "spiffe://other/x",
        PrivateKey::generate(KeyType::EcP256).unwrap(),
        (NOW, 60),
    );
    let by_lie = |i: usize, forged: &mut Forged| {
        if i == 0 {
            forged.signer = lie.identity.clone();
        }
    };
    let forged = world.forge(&names, by_lie);
    let certs = CertSet::encode([lie.leaf()], []).unwrap();
    let result = world.deliver(&world.engine, "b", "c", &forged.bytes, Some(&certs));
    assert_eq!(reason(result), Reason::ChainKeyUnknown);
}

#[test]
fn case_14_chains_cross_federated_trust_domains_and_end_with_their_bundle() {
    let policy = OPEN
        .replace(
            r#"workloads  = ["spiffe://td/a"]"#,
            r#"workloads = ["spiffe://other/x"]"#,
        )
        .replace(
            r#"from    = ["spiffe://td/**"]"#,
            r#"from = ["spiffe://td/**", "spiffe://other/**"]"#,
        );
    let foreign_ca = authority("other");
    let world = World::new(&policy);
    let foreign = Workload::new(
        &foreign_ca,
        "spiffe://other/x",
        KeyType::EcP384,
        (NOW - 60, 3_600),
    );
    let world = world.with("x", foreign);
    let names = ["x", "b", "c"];
    assert_eq!(
        reason(world.try_forged(&names, |_, _| {})),
        Reason::ChainSignatureInvalid
    );
    world
        .trust
        .set("other", vec![foreign_ca.authority().clone()]);
    let call = world.forge(&names, |_, _| {});
    assert!(world.deliver_forged(&names, &call).is_ok());
    assert_eq!(world.engine.cached(), (1, 1));
    // Another trust domain's bundle changes nothing; its own drops what relied on it.
    world.engine.authority_removed("td");
    assert_eq!(world.engine.cached().1, 1);
    world.trust.remove("other");
    world.engine.authority_removed("other");
    assert_eq!(world.engine.cached(), (0, 0));
    assert_eq!(
        reason(world.try_forged(&names, |_, _| {})),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_a_leaf_under_an_unknown_authority_does_not_count() {
    let world = World::new(OPEN);
    let rogue_ca = authority("td");
    let fake = Workload::new(
        &rogue_ca,
        "spiffe://td/a",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let world = world.with("a", fake);
    assert_eq!(
        reason(world.try_forged(&["a", "b", "c"], |_, _| {})),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_a_connection_does_not_outlive_the_authority_behind_it() {
    let next_ca = authority("td");
    let renewed = Workload::new(
        &next_ca,
        "spiffe://td/h",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let policy = OPEN.replace(
        r#"["spiffe://td/a"]"#,
        r#"["spiffe://td/a", "spiffe://td/h"]"#,
    ) + r#"
allow "monitor looks in" {
  from    = ["spiffe://ops/monitor"]
  to      = ["spiffe://td/b"]
  actions = ["POST /tasks"]
  chain   = "optional"
}
"#;
    let ops_ca = authority("ops");
    let monitor = Workload::new(
        &ops_ca,
        "spiffe://ops/monitor",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let world = World::new(&policy)
        .with("h", renewed)
        .with("monitor", monitor);
    let old = world.ca.authority().clone();
    world
        .trust
        .set("td", vec![old.clone(), next_ca.authority().clone()]);
    world.trust.set("ops", vec![ops_ca.authority().clone()]);
    let ask = |name: &str| world.try_forged(&[name, "b"], |_, _| {}).map(drop);
    let look = || {
        let request = world.request("monitor", "b", FieldValues::default());
        world.engine.decide(&world.policy, &request, world.at())
    };
    assert_eq!((ask("a"), ask("h")), (Ok(()), Ok(())));
    assert!(look().is_ok());
    // The connections stay; what they were verified under does not.
    world.trust.set("td", vec![next_ca.authority().clone()]);
    world.engine.authority_removed("td");
    assert_eq!(
        ask("a").unwrap_err().reason(),
        Reason::ChainSignatureInvalid
    );
    assert_eq!((ask("h"), ask("h")), (Ok(()), Ok(())));
    assert!(look().is_ok());
    world.trust.remove("ops");
    world.engine.authority_removed("ops");
    assert_eq!(reason(look()), Reason::NoPeerIdentity);
    assert_eq!(ask("h"), Ok(()));
}

#[test]
fn case_14_an_earlier_leaf_has_to_be_valid_when_its_link_was_made() {
    let world = World::new(OPEN);
    let short = Workload::new(&world.ca, "spiffe://td/a", KeyType::EcP256, (NOW - 60, 90));
    let mut world = world.with("a", short);
    let names = ["a", "b", "c"];
    // Made while the leaf was valid; it has expired 70 s later.
    let first_at = |iat: u64| {
        move |i: usize, forged: &mut Forged| {
            forged.claims.iat = if i == 0 { iat } else { NOW + 100 };
            forged.claims.exp = NOW + 200;
        }
    };
    world.pass(100);
    assert!(world.try_forged(&names, first_at(NOW + 20)).is_ok());
    // Up to 30 s late is the clocks' fault; more is not. With and without what is remembered.
    assert!(world.try_forged(&names, first_at(NOW + 60)).is_ok());
    assert_eq!(
        reason(world.try_forged(&names, first_at(NOW + 61))),
        Reason::ChainSignatureInvalid
    );
    world.engine = world.fresh_engine();
    assert_eq!(
        reason(world.try_forged(&names, first_at(NOW + 61))),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_the_connections_own_leaf_has_to_be_valid_now() {
    let mut world = World::new(OPEN);
    let call = world.forge(&["a", "b"], |_, forged| forged.claims.iat = NOW + 3_540);
    world.now = world.get("a").not_after.as_secs();
    assert!(
        world
            .deliver_forged(&["a", "b"], &call)
            .is_err_and(|r| r.reason() != Reason::NoPeerIdentity)
    );
    world.now += 1;
    assert_eq!(
        reason(world.deliver_forged(&["a", "b"], &call)),
        Reason::NoPeerIdentity
    );
}

#[test]
fn case_15_a_link_by_another_key_of_the_same_id_is_checked_at_once() {
    let world = World::new(OPEN);
    let new = Workload::new(
        &world.ca,
        "spiffe://td/b",
        KeyType::EcP256,
        (NOW - 5, 3_600),
    );
    let at_b = world.walk(&["a", "b"]);
    // B has a new SVID; its link goes out on a connection of the old one.
    let call = crate::CallRequest {
        callee: &world.get("c").id,
        method: "POST",
        path: "/tasks",
        grant: Grant::ByRule,
    };
    let sent = crate::outbound::prepare(
        &world.policy,
        &new.identity,
        CallOrigin::Context(&at_b),
        &call,
        world.at(),
    )
    .unwrap();
    // Its new leaf is not the connection's: unknown, until someone brings it along.
    let ask =
        |certs: Option<&[u8]>| world.deliver(&world.engine, "b", "c", sent.chain_bytes(), certs);
    assert_eq!(reason(ask(sent.certs_bytes())), Reason::ChainKeyUnknown);
    let certs = CertSet::encode([world.get("a").leaf(), new.leaf()], []).unwrap();
    let permit = ask(Some(&certs)).unwrap();
    assert!(
        permit
            .context()
            .unwrap()
            .check_signature(world.at())
            .is_ok()
    );
    // A bad one is refused at once, since the connection proves nothing about that key.
    let mut bad = sent.chain_bytes().to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let result = world.deliver(&world.engine, "b", "c", &bad, Some(&certs));
    assert_eq!(reason(result), Reason::ChainSignatureInvalid);
}

#[test]
fn case_15_each_generation_of_an_svid_calls_on_its_own_connections() {
    let world = World::new(OPEN);
    let new = Workload::new(
        &world.ca,
        "spiffe://td/b",
        KeyType::EcP256,
        (NOW - 5, 3_600),
    );
    let at_b = world.walk(&["a", "b"]);
    for generation in [world.get("b").clone(), new, world.get("b").clone()] {
        let callee = &world.get("c").id;
        let call = crate::CallRequest {
            callee,
            method: "POST",
            path: "/tasks",
            grant: Grant::ByRule,
        };
        let origin = CallOrigin::Context(&at_b);
        let sent = crate::outbound::prepare(
            &world.policy,
            &generation.identity,
            origin,
            &call,
            world.at(),
        )
        .unwrap();
        let chain = crate::Carrier::Http.write(sent.chain_bytes());
        let certs = crate::Carrier::Http.write(sent.certs_bytes().unwrap());
        let fields = FieldValues {
            chain: crate::FieldValue::One(chain.as_bytes()),
            certs: crate::FieldValue::One(certs.as_bytes()),
            ..FieldValues::default()
        };
        let request = InboundRequest {
            peer: Some(generation.peer()),
            ..world.request("b", "c", fields)
        };
        let permit = world
            .engine
            .decide(&world.policy, &request, world.at())
            .unwrap();
        let at_c = permit.context().unwrap();
        // The next hop gets the certificates of everyone who signed, this generation's included.
        let next = world
            .prepare("c", CallOrigin::Context(at_c), "d", Grant::ByRule)
            .unwrap();
        let sent_on = CertSet::decode(next.certs_bytes().unwrap().to_vec()).unwrap();
        let leaves: Vec<_> = sent_on.leaves().map(|der| der.to_vec()).collect();
        assert_eq!(leaves, [world.get("a").leaf(), generation.leaf()]);
        assert!(
            world
                .deliver(
                    &world.engine,
                    "c",
                    "d",
                    next.chain_bytes(),
                    next.certs_bytes()
                )
                .is_ok()
        );
    }
}
