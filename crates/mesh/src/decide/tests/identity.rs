//! Certificates, bundles and rotation: cases 14 and 15.

use countersign_identity::{KeyType, PrivateKey};

use crate::chain::CertSet;
use crate::context::Grant;
use crate::decide::{FieldValues, InboundRequest};
use crate::fixture::{Fixture, Forged, KeyedWorkload, NOW, OPEN, authority, reason};
use crate::outbound::CallOrigin;
use crate::refusal::Reason;

#[test]
fn case_14_a_foreign_certificate_over_the_same_key_is_ignored() {
    let fixture = Fixture::new(OPEN);
    let foreign_ca = authority("other");
    fixture
        .trust
        .set("other", vec![foreign_ca.authority().clone()]);
    let key: PrivateKey = fixture.get("a").key.clone();
    let foreign = KeyedWorkload::with_key(&foreign_ca, "spiffe://other/a", key, (NOW - 60, 3_600));
    let names = ["a", "b", "c"];
    let call = fixture.forge(&names, |_, _| {});
    // The foreign certificate comes first, then alone, then after A's was verified.
    let leaves = [foreign.leaf(), fixture.get("a").leaf()];
    let both = CertSet::encode(leaves, []).unwrap();
    let alone = CertSet::encode([foreign.leaf()], []).unwrap();
    let ask = |certs: &[u8]| fixture.deliver(&fixture.engine, "b", "c", &call.bytes, Some(certs));
    assert_eq!(reason(ask(&alone)), Reason::ChainKeyUnknown);
    assert!(ask(&both).is_ok());
    let again = fixture.forge(&names, |_, _| {});
    assert!(
        fixture
            .deliver(&fixture.engine, "b", "c", &again.bytes, Some(&alone))
            .is_ok()
    );
    // An own authority does not make the foreign trust domain's ID.
    let lie = KeyedWorkload::with_key(
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
    let forged = fixture.forge(&names, by_lie);
    let certs = CertSet::encode([lie.leaf()], []).unwrap();
    let result = fixture.deliver(&fixture.engine, "b", "c", &forged.bytes, Some(&certs));
    assert_eq!(reason(result), Reason::ChainKeyUnknown);
}

#[test]
fn case_14_chains_cross_domains_until_their_bundle_is_gone() {
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
    let fixture = Fixture::new(&policy);
    let foreign = KeyedWorkload::new(
        &foreign_ca,
        "spiffe://other/x",
        KeyType::EcP384,
        (NOW - 60, 3_600),
    );
    let fixture = fixture.with("x", foreign);
    let names = ["x", "b", "c"];
    assert_eq!(
        reason(fixture.try_forged(&names, |_, _| {})),
        Reason::ChainSignatureInvalid
    );
    fixture
        .trust
        .set("other", vec![foreign_ca.authority().clone()]);
    let call = fixture.forge(&names, |_, _| {});
    assert!(fixture.deliver_forged(&names, &call).is_ok());
    assert_eq!(fixture.engine.cached(), (1, 1));
    // Another trust domain's bundle changes nothing; its own drops what relied on it.
    fixture.engine.authority_removed("td");
    assert_eq!(fixture.engine.cached().1, 1);
    fixture.trust.remove("other");
    fixture.engine.authority_removed("other");
    assert_eq!(fixture.engine.cached(), (0, 0));
    assert_eq!(
        reason(fixture.try_forged(&names, |_, _| {})),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_a_leaf_under_an_unknown_authority_does_not_count() {
    let fixture = Fixture::new(OPEN);
    let rogue_ca = authority("td");
    let fake = KeyedWorkload::new(
        &rogue_ca,
        "spiffe://td/a",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let fixture = fixture.with("a", fake);
    assert_eq!(
        reason(fixture.try_forged(&["a", "b", "c"], |_, _| {})),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_a_connection_ends_with_the_authority_behind_it() {
    let next_ca = authority("td");
    let renewed = KeyedWorkload::new(
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
    let monitor = KeyedWorkload::new(
        &ops_ca,
        "spiffe://ops/monitor",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let fixture = Fixture::new(&policy)
        .with("h", renewed)
        .with("monitor", monitor);
    let old = fixture.ca.authority().clone();
    fixture
        .trust
        .set("td", vec![old.clone(), next_ca.authority().clone()]);
    fixture.trust.set("ops", vec![ops_ca.authority().clone()]);
    let ask = |name: &str| fixture.try_forged(&[name, "b"], |_, _| {}).map(drop);
    let look = || {
        let request = fixture.request("monitor", "b", FieldValues::default());
        fixture
            .engine
            .decide(&fixture.policy, &request, fixture.at())
    };
    assert_eq!((ask("a"), ask("h")), (Ok(()), Ok(())));
    assert!(look().is_ok());
    // The connections stay; what they were verified under does not.
    fixture.trust.set("td", vec![next_ca.authority().clone()]);
    fixture.engine.authority_removed("td");
    assert_eq!(
        ask("a").unwrap_err().reason(),
        Reason::ChainSignatureInvalid
    );
    assert_eq!((ask("h"), ask("h")), (Ok(()), Ok(())));
    assert!(look().is_ok());
    fixture.trust.remove("ops");
    fixture.engine.authority_removed("ops");
    assert_eq!(reason(look()), Reason::NoPeerIdentity);
    assert_eq!(ask("h"), Ok(()));
}

#[test]
fn case_14_an_earlier_leaf_must_be_valid_at_its_links_iat() {
    let fixture = Fixture::new(OPEN);
    let short = KeyedWorkload::new(
        &fixture.ca,
        "spiffe://td/a",
        KeyType::EcP256,
        (NOW - 60, 90),
    );
    let mut fixture = fixture.with("a", short);
    let names = ["a", "b", "c"];
    // Made while the leaf was valid; it has expired 70 s later.
    let first_at = |iat: u64| {
        move |i: usize, forged: &mut Forged| {
            forged.claims.iat = if i == 0 { iat } else { NOW + 100 };
            forged.claims.exp = NOW + 200;
        }
    };
    fixture.pass(100);
    assert!(fixture.try_forged(&names, first_at(NOW + 20)).is_ok());
    // Up to 30 s late is the clocks' fault; more is not. With and without what is remembered.
    assert!(fixture.try_forged(&names, first_at(NOW + 60)).is_ok());
    assert_eq!(
        reason(fixture.try_forged(&names, first_at(NOW + 61))),
        Reason::ChainSignatureInvalid
    );
    fixture.engine = fixture.fresh_engine();
    assert_eq!(
        reason(fixture.try_forged(&names, first_at(NOW + 61))),
        Reason::ChainSignatureInvalid
    );
}

#[test]
fn case_14_the_connections_own_leaf_has_to_be_valid_now() {
    let mut fixture = Fixture::new(OPEN);
    let call = fixture.forge(&["a", "b"], |_, forged| forged.claims.iat = NOW + 3_540);
    fixture.now = fixture.get("a").peer().not_after.as_secs();
    assert!(
        fixture
            .deliver_forged(&["a", "b"], &call)
            .is_err_and(|r| r.reason() != Reason::NoPeerIdentity)
    );
    fixture.now += 1;
    assert_eq!(
        reason(fixture.deliver_forged(&["a", "b"], &call)),
        Reason::NoPeerIdentity
    );
}

#[test]
fn case_15_a_link_by_another_key_of_the_id_is_checked_at_once() {
    let fixture = Fixture::new(OPEN);
    let new = KeyedWorkload::new(
        &fixture.ca,
        "spiffe://td/b",
        KeyType::EcP256,
        (NOW - 5, 3_600),
    );
    let at_b = fixture.walk(&["a", "b"]);
    // B has a new SVID; its link goes out on a connection of the old one.
    let call = crate::CallRequest {
        callee: &fixture.get("c").id,
        method: "POST",
        path: "/tasks",
        grant: Grant::ByRule,
    };
    let sent = crate::outbound::prepare(
        &fixture.policy,
        &new.identity,
        CallOrigin::Context(&at_b),
        &call,
        fixture.at(),
    )
    .unwrap();
    // Its new leaf is not the connection's: unknown, until someone brings it along.
    let ask = |certs: Option<&[u8]>| {
        fixture.deliver(&fixture.engine, "b", "c", sent.chain_bytes(), certs)
    };
    assert_eq!(reason(ask(sent.certs_bytes())), Reason::ChainKeyUnknown);
    let certs = CertSet::encode([fixture.get("a").leaf(), new.leaf()], []).unwrap();
    let permit = ask(Some(&certs)).unwrap();
    assert!(
        permit
            .context()
            .unwrap()
            .check_signature(fixture.at())
            .is_ok()
    );
    // A bad one is refused at once, since the connection proves nothing about that key.
    let mut bad = sent.chain_bytes().to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let result = fixture.deliver(&fixture.engine, "b", "c", &bad, Some(&certs));
    assert_eq!(reason(result), Reason::ChainSignatureInvalid);
}

#[test]
fn case_15_each_svid_generation_calls_on_its_own_connections() {
    let fixture = Fixture::new(OPEN);
    let new = KeyedWorkload::new(
        &fixture.ca,
        "spiffe://td/b",
        KeyType::EcP256,
        (NOW - 5, 3_600),
    );
    let at_b = fixture.walk(&["a", "b"]);
    for generation in [fixture.get("b").clone(), new, fixture.get("b").clone()] {
        let callee = &fixture.get("c").id;
        let call = crate::CallRequest {
            callee,
            method: "POST",
            path: "/tasks",
            grant: Grant::ByRule,
        };
        let origin = CallOrigin::Context(&at_b);
        let sent = crate::outbound::prepare(
            &fixture.policy,
            &generation.identity,
            origin,
            &call,
            fixture.at(),
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
            ..fixture.request("b", "c", fields)
        };
        let permit = fixture
            .engine
            .decide(&fixture.policy, &request, fixture.at())
            .unwrap();
        let at_c = permit.context().unwrap();
        // The next hop gets the certificates of everyone who signed, this generation's included.
        let next = fixture
            .prepare("c", CallOrigin::Context(at_c), "d", Grant::ByRule)
            .unwrap();
        let sent_on = CertSet::decode(next.certs_bytes().unwrap().to_vec()).unwrap();
        let leaves: Vec<_> = sent_on.leaves().map(|der| der.to_vec()).collect();
        assert_eq!(leaves, [fixture.get("a").leaf(), generation.leaf()]);
        assert!(
            fixture
                .deliver(
                    &fixture.engine,
                    "c",
                    "d",
                    next.chain_bytes(),
                    next.certs_bytes()
                )
                .is_ok()
        );
    }
}
