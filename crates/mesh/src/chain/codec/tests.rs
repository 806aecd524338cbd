//! One form, and no other: case 5 of `docs/call-chains.md`, section 10, and section 2.

use countersign_identity::{KeyId, SpiffeId};
use proptest::prelude::*;

use super::*;
use crate::chain::cbor::Writer;

/// A signature that has the form of one.
const SIGNATURE: [u8; 64] = {
    let mut signature = [0; 64];
    signature[31] = 1;
    signature[63] = 1;
    signature
};

fn workload(n: usize) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/w/{n}")).unwrap()
}

fn claims(n: usize) -> Claims {
    Claims {
        aud: workload(n + 1),
        exp: 1_800_000_300,
        iat: 1_800_000_000,
        cti: [7; 16],
        max_hops: 16,
        budget: 256,
        action: "POST /tasks".to_owned(),
    }
}

fn start() -> ChainStart {
    ChainStart {
        iss: workload(0),
        chain: ChainId::from_bytes([9; 16]),
    }
}

fn header() -> Vec<u8> {
    encode_header(Algorithm::Es256, &KeyId::from_bytes([3; 32]))
}

fn encode_chain(links: usize) -> Vec<u8> {
    (0..links).fold(Vec::new(), |bytes, i| {
        let payload = encode_claims(&claims(i), (i == 0).then(start).as_ref());
        append(&bytes, i, &encode_link(&header(), &payload, &SIGNATURE))
    })
}

/// A chain of one link with this payload and protected header.
fn with(protected: &[u8], payload: &[u8]) -> Result<Chain, Malformed> {
    Chain::decode(append(&[], 0, &encode_link(protected, payload, &SIGNATURE)))
}

fn payload(change: impl FnOnce(&mut Claims)) -> Vec<u8> {
    let mut claims = claims(0);
    change(&mut claims);
    encode_claims(&claims, Some(&start()))
}

#[test]
fn what_is_written_is_read_again() {
    for links in 1..=MAX_LINKS {
        let bytes = encode_chain(links);
        let chain = Chain::decode(bytes.clone()).unwrap();
        assert_eq!(chain.as_bytes(), bytes);
        assert_eq!(usize::from(chain.hop()), links);
        assert_eq!(
            (chain.originator(), chain.id()),
            (&workload(0), ChainId::from_bytes([9; 16]))
        );
        for (i, link) in chain.links().iter().enumerate() {
            assert_eq!(
                (&link.claims, link.kid),
                (&claims(i), KeyId::from_bytes([3; 32]))
            );
            assert_eq!(chain.signer(i), Some(&workload(i)));
        }
        assert_eq!(
            chain.via().cloned().collect::<Vec<_>>(),
            (0..links).map(workload).collect::<Vec<_>>()
        );
        assert_eq!(chain.prefixes().len(), links - 1);
    }
}

#[test]
fn case_05_no_link_17_links_and_too_many_bytes_are_malformed() {
    assert!(Chain::decode(encode_chain(17)).is_err());
    assert!(Chain::decode(vec![0x80]).is_err());
    assert!(Chain::decode(Vec::new()).is_err());
    let long = |len: usize| {
        let bytes = (0..6).fold(Vec::new(), |bytes, i| {
            let action = format!("POST /{}", "a".repeat(if i < 5 { 800 } else { len }));
            let payload = encode_claims(
                &Claims {
                    action,
                    ..claims(i)
                },
                (i == 0).then(start).as_ref(),
            );
            append(&bytes, i, &encode_link(&header(), &payload, &SIGNATURE))
        });
        (bytes.len(), Chain::decode(bytes))
    };
    let (short_by, _) = long(300);
    let (len, exact) = long(300 + MAX_CHAIN_LEN - short_by);
    assert_eq!(len, MAX_CHAIN_LEN);
    assert!(exact.is_ok());
    let (len, over) = long(301 + MAX_CHAIN_LEN - short_by);
    assert_eq!((len, over.is_err()), (MAX_CHAIN_LEN + 1, true));
}

#[test]
fn case_05_trailing_bytes_are_malformed_at_each_level() {
    let good = encode_chain(1);
    assert!(Chain::decode(good.clone()).is_ok());
    assert!(Chain::decode([&good[..], &[0]].concat()).is_err());
    assert!(with(&[&header()[..], &[0]].concat(), &payload(|_| {})).is_err());
    assert!(with(&header(), &[&payload(|_| {})[..], &[0]].concat()).is_err());
    for cut in 0..good.len() {
        assert!(Chain::decode(good[..cut].to_vec()).is_err(), "cut at {cut}");
    }
}

#[test]
fn case_05_headers_have_two_parameters_in_order() {
    let kid = [3; 32];
    let writer = |pairs| Writer::with_capacity(64).map(pairs);
    let bad = [
        writer(1).integer(1).integer(-7).finish(),
        writer(1).integer(4).bytes(&kid).finish(),
        writer(2)
            .integer(4)
            .bytes(&kid)
            .integer(1)
            .integer(-7)
            .finish(),
        writer(2)
            .integer(1)
            .integer(-7)
            .integer(1)
            .integer(-7)
            .finish(),
        writer(3)
            .integer(1)
            .integer(-7)
            .integer(4)
            .bytes(&kid)
            .integer(5)
            .integer(1)
            .finish(),
        writer(3)
            .integer(1)
            .integer(-7)
            .integer(4)
            .bytes(&kid)
            .integer(4)
            .bytes(&kid)
            .finish(),
        writer(2)
            .integer(1)
            .integer(-7)
            .integer(4)
            .bytes(&kid[1..])
            .finish(),
        writer(2)
            .integer(1)
            .integer(-7)
            .integer(4)
            .text("kid")
            .finish(),
        writer(2)
            .integer(1)
            .text("ES256")
            .integer(4)
            .bytes(&kid)
            .finish(),
        Vec::new(),
    ];
    for header in bad {
        assert!(with(&header, &payload(|_| {})).is_err(), "{header:?}");
    }
}

#[test]
fn case_06_other_algorithms_and_signature_forms_are_malformed() {
    let with_alg = |alg| {
        Writer::with_capacity(64)
            .map(2)
            .integer(1)
            .integer(alg)
            .integer(4)
            .bytes(&[3; 32])
            .finish()
    };
    for alg in [-8, -36, -37, -257, 5, 0, -6] {
        assert!(with(&with_alg(alg), &payload(|_| {})).is_err(), "{alg}");
    }
    // ES384 with a signature of ES256's length.
    assert!(with(&with_alg(-35), &payload(|_| {})).is_err());
    assert!(with(&with_alg(-7), &payload(|_| {})).is_ok());
    let link = |signature: &[u8]| {
        Chain::decode(append(
            &[],
            0,
            &encode_link(&header(), &payload(|_| {}), signature),
        ))
    };
    let mut zero_r = SIGNATURE;
    zero_r[31] = 0;
    let mut high_s = SIGNATURE;
    high_s[32] = 0xff;
    for signature in [
        &[][..],
        &[0; 64],
        &zero_r,
        &high_s,
        &SIGNATURE[..63],
        &[1; 65],
    ] {
        assert!(link(signature).is_err());
    }
}

#[test]
fn case_05_claims_are_complete_in_order_and_known() {
    // Claims of a first link, as (key, value) pieces that are put together again with changes.
    let pieces: Vec<Vec<u8>> = {
        let w = || Writer::with_capacity(64);
        vec![
            w().integer(1).text("spiffe://td/w/0").finish(),
            w().integer(3).text("spiffe://td/w/1").finish(),
            w().integer(4).unsigned(1_800_000_300).finish(),
            w().integer(6).unsigned(1_800_000_000).finish(),
            w().integer(7).bytes(&[7; 16]).finish(),
            w().integer(-70_001).unsigned(16).finish(),
            w().integer(-70_002).unsigned(256).finish(),
            w().integer(-70_003).text("POST /tasks").finish(),
            w().integer(-70_006).bytes(&[9; 16]).finish(),
        ]
    };
    let build = |pieces: &[Vec<u8>]| {
        let map = Writer::with_capacity(1)
            .map(u64::try_from(pieces.len()).unwrap())
            .finish();
        [map, pieces.concat()].concat()
    };
    assert_eq!(build(&pieces), payload(|_| {}));
    assert!(with(&header(), &build(&pieces)).is_ok());
    for i in 0..pieces.len() {
        let mut missing = pieces.clone();
        missing.remove(i);
        assert!(
            with(&header(), &build(&missing)).is_err(),
            "claim {i} missing"
        );
        let mut twice = pieces.clone();
        twice.insert(i, pieces[i].clone());
        assert!(with(&header(), &build(&twice)).is_err(), "claim {i} twice");
        if i > 0 {
            let mut swapped = pieces.clone();
            swapped.swap(i - 1, i);
            assert!(
                with(&header(), &build(&swapped)).is_err(),
                "claims {i} swapped"
            );
        }
    }
    // Claims of later versions, also with their default values, and one that nobody knows.
    let w = || Writer::with_capacity(64);
    for (at, extra) in [
        (8, w().integer(-70_004).bytes(&[0; 32]).finish()),
        (8, w().integer(-70_005).unsigned(0).finish()),
        (8, w().integer(-70_005).unsigned(1).finish()),
        (9, w().integer(-70_007).bytes(&[0; 32]).finish()),
        (1, w().integer(2).text("sub").finish()),
        (3, w().integer(5).unsigned(1).finish()),
        (5, w().integer(8).unsigned(1).finish()),
    ] {
        let mut more = pieces.clone();
        more.insert(at, extra);
        assert!(
            with(&header(), &build(&more)).is_err(),
            "extra claim at {at}"
        );
    }
    // A first link without iss and chain, and a later link with them.
    assert!(with(&header(), &encode_claims(&claims(0), None)).is_err());
    let first = encode_link(&header(), &payload(|_| {}), &SIGNATURE);
    assert!(Chain::decode(append(&append(&[], 0, &first), 1, &first)).is_err());
}

#[test]
fn case_05_values_are_in_their_ranges() {
    let bad = [
        payload(|c| c.max_hops = 0),
        payload(|c| c.max_hops = 17),
        payload(|c| c.exp = 1 << 53),
        payload(|c| c.iat = 1 << 53),
        payload(|c| c.exp = c.iat + MAX_LIFETIME + 1),
        payload(|c| c.action = "POST".to_owned()),
        payload(|c| c.action = "POST  /tasks".to_owned()),
        payload(|c| c.action = "POST /a b".to_owned()),
        payload(|c| c.action = " /tasks".to_owned()),
        payload(|c| c.action = "P ".to_owned()),
        payload(|c| c.action = "POST /t\u{e4}sks".to_owned()),
        payload(|c| c.action = "POST /\u{7f}".to_owned()),
        payload(|c| c.action = format!("POST /{}", "a".repeat(1_019))),
        payload(|c| c.aud = SpiffeId::parse("spiffe://td").unwrap()),
    ];
    for (i, bad) in bad.iter().enumerate() {
        assert!(with(&header(), bad).is_err(), "{i}");
    }
    for good in [
        payload(|c| c.max_hops = 1),
        payload(|c| c.budget = u16::MAX),
        payload(|c| c.exp = c.iat + MAX_LIFETIME),
        payload(|c| c.exp = 0),
        payload(|c| c.action = "P /".to_owned()),
        payload(|c| c.action = format!("POST /{}", "a".repeat(1_018))),
    ] {
        assert!(with(&header(), &good).is_ok());
    }
    // IDs that are not canonical, and a budget that does not fit, have to be written by hand.
    let good = payload(|_| {});
    let swap = |from: &[u8], to: &[u8]| {
        let at = good
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    assert!(with(&header(), &swap(b"spiffe://td/w/1", b"spiffe://TD/w/1")).is_err());
    assert!(with(&header(), &swap(b"spiffe://td/w/0", b"spiffe://td/w/\xff")).is_err());
    assert!(with(&header(), &swap(b"spiffe://td/w/0", b"spiffe://td/./0")).is_err());
    assert!(with(&header(), &swap(&[0x19, 1, 0], &[0x1a, 0, 1, 0, 0])).is_err());
}

#[test]
fn case_05_every_other_cbor_encoding_is_malformed() {
    let good = encode_chain(1);
    // (what stands there, what would mean the same to a lenient reader)
    let payload = payload(|_| {});
    let swaps: [(&[u8], &[u8]); 11] = [
        (&[0x19, 1, 0], &[0x1a, 0, 0, 1, 0]),
        (&[0x10], &[0x18, 0x10]),
        (
            &[0x1a, 0x6b, 0x49, 0xd2, 0x00],
            &[0x1b, 0, 0, 0, 0, 0x6b, 0x49, 0xd2, 0x00],
        ),
        (&[0x03, 0x6f], &[0x03, 0x78, 0x0f]),
        (&[0x03, 0x6f], &[0x18, 0x03, 0x6f]),
        (&[0x07, 0x50], &[0x07, 0x58, 0x10]),
        (
            &[0x3a, 0, 1, 0x11, 0x70],
            &[0x3b, 0, 0, 0, 0, 0, 1, 0x11, 0x70],
        ),
        (&[0xa9], &[0xb8, 9]),
        (&[0xa9], &[0xbf]),
        (
            &[0x1a, 0x6b, 0x49, 0xd2, 0x00],
            &[0xc1, 0x1a, 0x6b, 0x49, 0xd2, 0x00],
        ),
        (&[0x19, 1, 0], &[0xf9, 0x5c, 0]),
    ];
    for (i, (from, to)) in swaps.iter().enumerate() {
        let at = payload
            .windows(from.len())
            .position(|window| window == *from)
            .expect("the piece is there");
        let mut changed = [&payload[..at], *to, &payload[at + from.len()..]].concat();
        if to.first() == Some(&0xbf) {
            changed.push(0xff);
        }
        assert!(with(&header(), &changed).is_err(), "payload {i}");
    }
    let (head, link) = good.split_at(1);
    assert_eq!(head, [0x81]);
    for bad in [
        [&[0x98, 1], link].concat(),
        [&[0x9f], link, &[0xff]].concat(),
        [&[0xd2, 0x81], link].concat(),
        [&[0x81, 0xd2], link].concat(),
        [&[0x81, 0x98, 4], &link[1..]].concat(),
        [&[0x81, 0x9f], &link[1..], &[0xff]].concat(),
        link.to_vec(),
    ] {
        assert!(Chain::decode(bad).is_err());
    }
    // The unprotected header is a0 and nothing else.
    let at = link
        .windows(2)
        .position(|window| window == [0xa0, 0x58])
        .unwrap();
    for other in [
        &[0xb8, 0][..],
        &[0xbf, 0xff],
        &[0xa1, 1, 0x26],
        &[0xf6],
        &[0x40],
    ] {
        assert!(Chain::decode([&[0x81], &link[..at], other, &link[at + 1..]].concat()).is_err());
    }
}

prop_compose! {
    fn any_claims()(
        aud in "spiffe://[a-z]{1,8}(/[a-zA-Z0-9._-]{1,6}x){1,3}",
        iat in 0..TIME_END - MAX_LIFETIME,
        life in 0..=MAX_LIFETIME,
        cti: [u8; 16],
        max_hops in 1..=MAX_HOPS,
        budget: u16,
        action in "[A-Z]{1,7} /[!-~]{0,40}",
    ) -> Claims {
        Claims { aud: SpiffeId::parse(&aud).unwrap(), exp: iat + life, iat, cti, max_hops, budget, action }
    }
}

fn any_chain() -> impl Strategy<Value = Vec<u8>> {
    (
        prop::collection::vec((any_claims(), any::<[u8; 32]>()), 1..6),
        any::<[u8; 16]>(),
    )
        .prop_map(|(links, id)| {
            links
                .iter()
                .enumerate()
                .fold(Vec::new(), |bytes, (i, (claims, kid))| {
                    let start = ChainStart {
                        iss: workload(0),
                        chain: ChainId::from_bytes(id),
                    };
                    let payload = encode_claims(claims, (i == 0).then_some(&start));
                    let header = encode_header(Algorithm::Es256, &KeyId::from_bytes(*kid));
                    append(&bytes, i, &encode_link(&header, &payload, &SIGNATURE))
                })
        })
}

proptest! {
    #[test]
    fn every_chain_survives_the_round_trip(bytes in any_chain()) {
        let chain = Chain::decode(bytes.clone()).unwrap();
        prop_assert_eq!(chain.encode(), bytes);
    }

    /// A reader accepts only what the encoder writes: whatever is altered is refused, or is exactly the encoding of
    /// what was read.
    #[test]
    fn nothing_but_the_encoders_output_is_accepted(
        bytes in any_chain(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut altered = bytes;
        for (at, byte, how) in edits {
            let at = at.index(altered.len());
            match how {
                0 => altered[at] = byte,
                1 => altered.insert(at, byte),
                _ => {
 altered.remove(at);
 }
            }
            if altered.is_empty() {
                break;
            }
        }
        if let Ok(chain) = Chain::decode(altered.clone()) {
            prop_assert_eq!(chain.encode(), altered);
        }
    }

    #[test]
    fn rubbish_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Chain::decode(bytes).is_err());
    }
}
