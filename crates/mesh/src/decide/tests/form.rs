//! Chains that are not in their one form, and signatures that do not hold: cases 2, 5 and 6.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_identity::KeyType;

use crate::chain::{Carrier, CertSet, FieldValue, NO_LINKS, codec};
use crate::context::Grant;
use crate::decide::{FieldValues, InboundRequest};
use crate::fixture::{Fixture, Forged, KeyedWorkload, NOW, OPEN, reason};
use crate::outbound::{CallOrigin, OutboundError};
use crate::refusal::Reason;

#[test]
fn case_05_fields_have_one_form_each() {
    let fixture = Fixture::new(OPEN);
    let chain = fixture.forge(&["a", "b", "c"], |_, _| {});
    let http = Carrier::Http.write(&chain.bytes);
    let grpc = Carrier::Grpc.write(&chain.bytes);
    let certs = chain.certs.clone().unwrap();
    let (http_certs, grpc_certs) = (Carrier::Http.write(&certs), Carrier::Grpc.write(&certs));
    let one =
        |text: &'_ str| FieldValue::One(Box::leak(text.to_owned().into_boxed_str()).as_bytes());
    let fields = FieldValues {
        chain: one(&http),
        certs: one(&http_certs),
        ..FieldValues::default()
    };
    let bad = [
        FieldValues {
            chain: FieldValue::Several,
            ..fields
        },
        FieldValues {
            certs: FieldValue::Several,
            ..fields
        },
        FieldValues {
            chain: one(&format!("{http},{http}")),
            ..fields
        },
        FieldValues {
            chain: one(&format!("{http};a")),
            ..fields
        },
        FieldValues {
            chain: one(http.trim_matches(':')),
            ..fields
        },
        FieldValues {
            chain: one(&format!(":{grpc}:")),
            ..fields
        },
        FieldValues {
            chain_bin: one(&grpc),
            ..fields
        },
        FieldValues {
            certs_bin: one(&grpc_certs),
            ..fields
        },
        FieldValues {
            chain_bin: FieldValue::Several,
            ..fields
        },
        FieldValues {
            chain: one(&grpc),
            ..fields
        },
        FieldValues {
            certs: one(&grpc_certs),
            ..fields
        },
        FieldValues {
            certs: one(":gYA=:"),
            ..fields
        },
        FieldValues {
            chain: one(""),
            ..fields
        },
        FieldValues {
            chain: FieldValue::Absent,
            chain_bin: one(&grpc),
            certs: FieldValue::Absent,
            ..fields
        },
    ];
    let ask = |fields, carrier| {
        let request = InboundRequest {
            carrier,
            ..fixture.request("b", "c", fields)
        };
        fixture
            .engine
            .decide(&fixture.policy, &request, fixture.at())
    };
    for fields in bad {
        assert_eq!(
            reason(ask(fields, Carrier::Http)),
            Reason::ChainMalformed,
            "{fields:?}"
        );
    }
    assert_eq!(reason(ask(fields, Carrier::Grpc)), Reason::ChainMalformed);
    assert!(ask(fields, Carrier::Http).is_ok());
    let metadata = FieldValues {
        chain_bin: one(&grpc),
        certs_bin: one(&grpc_certs),
        ..FieldValues::default()
    };
    // The same call, now as gRPC, is known already: it was read and understood.
    assert_eq!(reason(ask(metadata, Carrier::Grpc)), Reason::ChainReplayed);
}

#[test]
fn case_05_certificates_do_not_come_with_a_chain_of_one_link() {
    let fixture = Fixture::new(OPEN);
    let chain = fixture.forge(&["a", "b"], |_, _| {});
    let certs = CertSet::encode([fixture.get("a").leaf()], []).unwrap();
    let result = fixture.deliver(&fixture.engine, "a", "b", &chain.bytes, Some(&certs));
    assert_eq!(reason(result), Reason::ChainMalformed);
}

#[test]
fn case_05_a_chain_over_its_size_is_malformed() {
    let fixture = Fixture::new(OPEN);
    let ask = |bytes: &[u8]| reason(fixture.deliver(&fixture.engine, "a", "b", bytes, None));
    assert_eq!(ask(&[0x80]), Reason::ChainMalformed);
    assert_eq!(ask(&vec![0; 6_001]), Reason::ChainMalformed);
    assert_eq!(
        ask(&[&fixture.forge(&["a", "b"], |_, _| {}).bytes[..], &[0]].concat()),
        Reason::ChainMalformed
    );
}

#[test]
fn case_06_policy_may_demand_the_last_signature_at_once() {
    let fixture = Fixture::new(&format!("defaults {{\n  verify = \"always\"\n}}\n{OPEN}"));
    let names = ["a", "b", "c"];
    let good = fixture.forge(&names, |_, _| {});
    assert!(fixture.deliver_forged(&names, &good).is_ok());
    // Every byte of every link counts. Fresh engines, so that nothing is remembered.
    for at in (0..good.bytes.len()).step_by(7) {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 1;
        let result = fixture.deliver(
            &fixture.fresh_engine(),
            "b",
            "c",
            &bytes,
            good.certs.as_deref(),
        );
        assert!(result.is_err(), "byte {at}");
    }
}

#[test]
fn case_06_an_altered_earlier_link_is_refused_cold_and_warm() {
    let fixture = Fixture::new(OPEN);
    let names = ["a", "b", "c"];
    let good = fixture.forge(&names, |_, _| {});
    assert!(fixture.deliver_forged(&names, &good).is_ok());
    let first_ends = 1 + good.links[0].len();
    for at in (1..first_ends).step_by(3) {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 1;
        let engine = fixture.engine.clone();
        assert!(
            fixture
                .deliver(&engine, "b", "c", &bytes, good.certs.as_deref())
                .is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn case_06_an_algorithm_of_another_key_type_is_refused() {
    let fixture = Fixture::new(OPEN);
    let big = KeyedWorkload::new(
        &fixture.ca,
        "spiffe://td/a",
        KeyType::EcP384,
        (NOW - 60, 3_600),
    );
    let fixture = fixture.with("a", big.clone());
    assert!(fixture.try_forged(&["a", "b", "c"], |_, _| {}).is_ok());
    // A link that names the P-384 key but is signed as ES256.
    let good = fixture.forge(&["a", "b", "c"], |_, _| {});
    let small = fixture.get("b").identity.clone();
    let first = fixture.forge(&["a", "b"], |_, forged| forged.signer = small.clone());
    let chain = crate::Chain::decode(first.bytes).unwrap();
    let claims = &chain.links()[0].claims;
    let start = crate::chain::ChainStart {
        iss: chain.originator().clone(),
        chain: chain.id(),
    };
    let protected = codec::encode_header(crate::chain::Algorithm::Es256, &big.identity.kid());
    let payload = codec::encode_claims(claims, Some(&start));
    let link = codec::encode_link(&protected, &payload, chain.signature(0));
    let bytes = codec::append(&codec::append(&[], 0, &link), 1, &good.links[1]);
    let result = fixture.deliver(&fixture.engine, "b", "c", &bytes, good.certs.as_deref());
    assert_eq!(reason(result), Reason::ChainSignatureInvalid);
}

#[test]
fn case_06_after_a_late_failure_nothing_is_sent_or_cached() {
    let fixture = Fixture::new(OPEN);
    let names = ["a", "b", "c"];
    let mut call = fixture.forge(&names, |_, _| {});
    // The lowest bit of s: still a well-formed signature, but another one.
    *call.bytes.last_mut().unwrap() ^= 1;
    let permit = fixture.deliver_forged(&names, &call).unwrap();
    let context = permit.context().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let hook = Arc::clone(&ended);
    context.on_late_failure(move || {
        hook.fetch_add(1, Ordering::Relaxed);
    });
    let before = context.remaining();
    for _ in 0..2 {
        match fixture.prepare("c", CallOrigin::Context(context), "d", Grant::ByRule) {
            Err(OutboundError::Refused(refusal)) => {
                assert_eq!(refusal.reason(), Reason::ChainSignatureInvalid);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        (context.remaining(), ended.load(Ordering::Relaxed)),
        (before, 1)
    );
    // The first link was good and may be remembered; the whole chain is not.
    let checked: Vec<_> = [codec::prefix_after(&NO_LINKS, &call.links[0])].to_vec();
    assert_eq!((fixture.engine.cached().0, checked.len()), (1, 1));
    // A hook that comes too late runs at once.
    let hook = Arc::clone(&ended);
    context.on_late_failure(move || {
        hook.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ended.load(Ordering::Relaxed), 2);
}

#[test]
fn case_02_a_forged_originator_does_not_pass() {
    let fixture = Fixture::new(OPEN);
    let intruder = fixture.get("h").identity.clone();
    // H signs in A's name with its own key: no certificate of A has that key.
    let by_h = |i: usize, forged: &mut Forged| {
        if i == 0 {
            forged.signer = intruder.clone();
        }
    };
    assert_eq!(
        reason(fixture.try_forged(&["a", "b", "c"], by_h)),
        Reason::ChainKeyUnknown
    );
    // H claims A's key: the certificate is there, the signature does not hold.
    let good = fixture.forge(&["a", "b", "c"], |_, _| {});
    let forged = fixture.forge(&["a", "b", "c"], by_h);
    let first = crate::Chain::decode(fixture.forge(&["a", "b"], by_h).bytes).unwrap();
    let start = crate::chain::ChainStart {
        iss: first.originator().clone(),
        chain: first.id(),
    };
    let header = codec::encode_header(
        crate::chain::Algorithm::Es256,
        &fixture.get("a").identity.kid(),
    );
    let payload = codec::encode_claims(&first.links()[0].claims, Some(&start));
    let link = codec::encode_link(&header, &payload, first.signature(0));
    let bytes = codec::append(&codec::append(&[], 0, &link), 1, &forged.links[1]);
    let result = fixture.deliver(&fixture.engine, "b", "c", &bytes, good.certs.as_deref());
    assert_eq!(reason(result), Reason::ChainSignatureInvalid);
}

/// Puts `first` in front of the later links of `of`.
fn splice(first: &[u8], of: &crate::fixture::Forgery) -> Vec<u8> {
    let mut bytes = codec::append(&[], 0, first);
    for (i, link) in of.links.iter().enumerate().skip(1) {
        bytes = codec::append(&bytes, i, link);
    }
    bytes
}

#[test]
fn case_02_cut_and_spliced_chains_do_not_pass_cold_or_warm() {
    let names = ["a", "b", "c", "d"];
    for warm in [false, true] {
        let fixture = Fixture::new(OPEN);
        let one = fixture.forge(&names, |_, _| {});
        let two = fixture.forge(&names, |_, _| {});
        if warm {
            assert!(fixture.deliver_forged(&names, &one).is_ok());
            assert!(fixture.deliver_forged(&names, &two).is_ok());
        }
        let ask = |bytes: &[u8]| {
            reason(fixture.deliver(&fixture.engine, "c", "d", bytes, one.certs.as_deref()))
        };
        // The first link of another chain in front of links that this callee may have verified.
        assert_eq!(
            ask(&splice(&two.links[0], &one)),
            Reason::ChainSignatureInvalid,
            "warm {warm}"
        );
        // The first links cut off: the new first link has no originator.
        let cut = codec::append(&codec::append(&[], 0, &one.links[1]), 1, &one.links[2]);
        assert_eq!(ask(&cut), Reason::ChainMalformed);
        // A middle link left out: the signers no longer follow each other.
        let gap = codec::append(&codec::append(&[], 0, &one.links[0]), 1, &one.links[2]);
        let refused = ask(&gap);
        assert!(
            matches!(
                refused,
                Reason::ChainAudienceMismatch | Reason::ChainSignatureInvalid
            ),
            "{refused}"
        );
    }
}

#[test]
fn case_02_a_forged_first_link_before_verified_ones_is_refused() {
    let policy = OPEN.replace(
        r#"["spiffe://td/a"]"#,
        r#"["spiffe://td/a", "spiffe://td/h"]"#,
    );
    let names = ["a", "b", "c"];
    for warm in [false, true] {
        let fixture = Fixture::new(&policy);
        let good = fixture.forge(&names, |_, _| {});
        if warm {
            assert!(fixture.deliver_forged(&names, &good).is_ok());
        }
        // H may originate too, and makes a first link of its own for B.
        let foreign = fixture.forge(&["h", "b"], |_, forged| forged.claims.budget = 200);
        let last = fixture.forge(&names, |_, _| {});
        let spliced = splice(&foreign.links[0], &last);
        let both = CertSet::encode([fixture.get("a").leaf(), fixture.get("h").leaf()], []).unwrap();
        let ask =
            |certs: Option<&[u8]>| fixture.deliver(&fixture.engine, "b", "c", &spliced, certs);
        // Without H's certificate its key is unknown.
        assert_eq!(
            reason(ask(good.certs.as_deref())),
            Reason::ChainKeyUnknown,
            "warm {warm}"
        );
        // With it, the first link is H's own and holds; B's link was signed over another prefix and waits, so that
        // nothing can be made of the chain.
        let permit = ask(Some(&both)).unwrap();
        let refused = fixture.prepare(
            "c",
            CallOrigin::Context(permit.context().unwrap()),
            "d",
            Grant::ByRule,
        );
        assert!(
            matches!(refused, Err(OutboundError::Refused(r)) if r.reason() == Reason::ChainSignatureInvalid)
        );
        // Once B's link is an earlier one, it is checked.
        let longer = fixture.forge(&["a", "b", "c", "d"], |_, _| {});
        let spliced = splice(&foreign.links[0], &longer);
        let certs = ["a", "b", "h"].map(|name| fixture.get(name).leaf());
        let certs = CertSet::encode(certs, []).unwrap();
        let result = fixture.deliver(&fixture.engine, "c", "d", &spliced, Some(&certs));
        assert_eq!(reason(result), Reason::ChainSignatureInvalid, "warm {warm}");
    }
}
