//! Writes the vectors.

use countersign_identity::{KeyType, SigningKey as _};

use super::{BTreeMap, Vector, VectorWorkload, Vectors, decoded, hex, path, run};
use crate::chain::{Chain, codec};
use crate::fixture::{Fixture, Forged, Forgery, KeyedWorkload, NOW, authority};
use crate::{Carrier, Reason};

const ABOUT: &str = "Call chains, version 1: each vector is one request to a callee that has seen nothing before. \
    Formats and order of checks: docs/call-chains.md. Keys and certificates are for tests only.";

const POLICY: &str = r#"originate "a and x start" {
  workloads  = ["spiffe://td/a", "spiffe://other/x"]
  new_chains = "10/s burst 10"
}

allow "everybody" {
  from    = ["spiffe://td/**", "spiffe://other/x"]
  to      = ["spiffe://td/**"]
  actions = ["POST /tasks", "/tasks.v1.Tasks/*"]
}
"#;

struct VectorWriter {
    fixture: Fixture,
    vectors: Vectors,
}

impl VectorWriter {
    fn add(
        &mut self,
        name: &str,
        case: u8,
        names: &[&str],
        bytes: &[u8],
        certs: Option<&[u8]>,
        expected: &str,
    ) {
        let chain = Carrier::Http.write(bytes);
        let certs = certs.map(|certs| Carrier::Http.write(certs));
        self.add_fields(name, case, names, (chain, certs), expected);
    }

    fn add_fields(
        &mut self,
        name: &str,
        case: u8,
        names: &[&str],
        (chain, certs): (String, Option<String>),
        expected: &str,
    ) {
        let is_grpc = name.contains("gRPC");
        let carrier = if is_grpc {
            Carrier::Grpc
        } else {
            Carrier::Http
        };
        let read = carrier
            .read(chain.as_bytes(), crate::chain::MAX_CHAIN_LEN)
            .and_then(Chain::decode);
        let mut vector = Vector {
            name: name.to_owned(),
            case,
            peer: names[names.len() - 2].to_owned(),
            callee: names[names.len() - 1].to_owned(),
            carrier: if is_grpc { "grpc" } else { "http" }.to_owned(),
            method: "POST".to_owned(),
            path: "/tasks".to_owned(),
            chain,
            certs,
            outcome: String::new(),
            last_signature_holds: None,
            decoded: read.ok().as_ref().map(decoded),
        };
        let (outcome, holds) = run(&self.vectors, &vector);
        assert_eq!(outcome, expected, "{name}");
        (vector.outcome, vector.last_signature_holds) = (outcome, holds);
        self.vectors.vectors.push(vector);
    }

    fn forged(
        &mut self,
        name: &str,
        case: u8,
        names: &[&str],
        expected: &str,
        change: impl Fn(usize, &mut Forged),
    ) {
        let forgery = self.fixture.forge(names, change);
        self.add(
            name,
            case,
            names,
            &forgery.bytes,
            forgery.certs.as_deref(),
            expected,
        );
    }

    fn plain(&self, names: &[&str]) -> Forgery {
        self.fixture.forge(names, |_, _| {})
    }
}

fn writer() -> VectorWriter {
    let fixture = Fixture::new(POLICY);
    let other = authority("other");
    let foreign = KeyedWorkload::new(
        &other,
        "spiffe://other/x",
        KeyType::EcP256,
        (NOW - 60, 3_600),
    );
    let large = KeyedWorkload::new(
        &fixture.ca,
        "spiffe://td/e",
        KeyType::EcP384,
        (NOW - 60, 3_600),
    );
    let fixture = fixture.with("x", foreign).with("e", large);
    let der = |ca: &countersign_identity::issue::IssuingCa| vec![hex(ca.authority().der())];
    let bundles = BTreeMap::from([
        ("td".to_owned(), der(&fixture.ca)),
        ("other".to_owned(), der(&other)),
    ]);
    let workload = |name: &str| {
        let workload = fixture.get(name);
        let made = VectorWorkload {
            id: workload.id.to_string(),
            private_key: hex(&workload.key.to_pkcs8()),
            kid: workload.key.kid().to_string(),
            certificates: workload.chain.iter().map(|der| hex(der)).collect(),
        };
        (name.to_owned(), made)
    };
    let workloads = ["a", "b", "c", "d", "e", "f", "g", "x"]
        .into_iter()
        .map(workload)
        .collect();
    let vectors = Vectors {
        about: ABOUT.to_owned(),
        now: NOW,
        bundles,
        workloads,
        policy: POLICY.to_owned(),
        vectors: Vec::new(),
    };
    VectorWriter { fixture, vectors }
}

#[test]
#[ignore = "writes the vectors anew"]
fn write() {
    let mut w = writer();
    w.forged("one link", 9, &["a", "b"], "permit", |_, _| {});
    w.forged("three links", 9, &["a", "b", "c", "d"], "permit", |_, _| {});
    w.forged(
        "five links, one of them by a P-384 key",
        9,
        &["a", "b", "e", "c", "d", "f"],
        "permit",
        |_, _| {},
    );
    w.forged(
        "six links",
        9,
        &["a", "b", "e", "c", "d", "f", "g"],
        "hop_limit_exceeded",
        |_, _| {},
    );
    w.forged(
        "from a federated trust domain",
        14,
        &["x", "b", "c"],
        "permit",
        |_, _| {},
    );
    let two = w.plain(&["a", "b", "c"]);
    let fields = (
        Carrier::Grpc.write(&two.bytes),
        two.certs.as_ref().map(|certs| Carrier::Grpc.write(certs)),
    );
    w.add_fields(
        "two links in gRPC metadata",
        9,
        &["a", "b", "c"],
        fields,
        "permit",
    );
    claims(&mut w);
    forms(&mut w, &two);
    signatures(&mut w, &two);
    let text = serde_json::to_string_pretty(&w.vectors).unwrap();
    std::fs::write(path(), text + "\n").unwrap();
    assert!(
        w.vectors
            .vectors
            .iter()
            .all(|v| v.outcome == "permit" || Reason::from_wire(&v.outcome).as_str() == v.outcome)
    );
}

fn claims(w: &mut VectorWriter) {
    let two = ["a", "b", "c"];
    w.forged(
        "a middle workload starts a chain",
        1,
        &["b", "c"],
        "origination_denied",
        |_, _| {},
    );
    let for_d = w.plain(&["a", "b", "d"]);
    w.add(
        "a chain for another callee",
        3,
        &two,
        &for_d.bytes,
        for_d.certs.as_deref(),
        "chain_audience_mismatch",
    );
    let by_b = w.plain(&two);
    w.add(
        "a chain by another caller",
        3,
        &["d", "c"],
        &by_b.bytes,
        by_b.certs.as_deref(),
        "chain_audience_mismatch",
    );
    w.forged(
        "deadline passed",
        3,
        &two,
        "chain_deadline_passed",
        |_, forged| forged.claims.exp = NOW,
    );
    w.forged(
        "last link 61 s old",
        3,
        &["a", "b"],
        "chain_stale",
        |_, forged| forged.claims.iat = NOW - 61,
    );
    w.forged(
        "last link 60 s old",
        3,
        &["a", "b"],
        "permit",
        |_, forged| forged.claims.iat = NOW - 60,
    );
    w.forged("a link 31 s ahead", 3, &two, "chain_stale", |_, forged| {
        forged.claims.iat = NOW + 31;
    });
    w.forged("max_hops rises", 4, &two, "chain_malformed", |i, forged| {
        forged.claims.max_hops = 4 + u8::try_from(i).unwrap();
    });
    w.forged("exp rises", 4, &two, "chain_malformed", |i, forged| {
        forged.claims.exp = NOW + 100 + u64::try_from(i).unwrap();
    });
    w.forged(
        "budget does not fall",
        4,
        &two,
        "chain_malformed",
        |_, forged| forged.claims.budget = 9,
    );
    w.forged(
        "a first link over its rule is clamped",
        4,
        &["a", "b"],
        "permit",
        |_, forged| {
            forged.claims.max_hops = 16;
            forged.claims.budget = 65_535;
            forged.claims.exp = NOW + 86_400;
        },
    );
    w.forged(
        "a call below a budget of 0",
        10,
        &["a", "b", "c", "d"],
        "chain_budget_exhausted",
        |i, forged| {
            forged.claims.budget = [1, 0, 0][i];
        },
    );
    w.forged(
        "the action is not the request's",
        7,
        &two,
        "action_denied",
        |_, forged| {
            forged.claims.action = "POST /tasks.v1.Tasks/Create".to_owned();
        },
    );
    w.forged(
        "back to the originator",
        8,
        &["a", "b", "a"],
        "cycle_detected",
        |_, _| {},
    );
    w.forged("to oneself", 8, &["a", "a"], "cycle_detected", |_, _| {});
}

fn forms(w: &mut VectorWriter, two: &Forgery) {
    let names = ["a", "b", "c"];
    let certs = two.certs.clone();
    let certs = certs.as_deref();
    w.add(
        "a byte after the end",
        5,
        &names,
        &[&two.bytes[..], &[0]].concat(),
        certs,
        "chain_malformed",
    );
    w.add(
        "a long array head",
        5,
        &names,
        &[&[0x98, 2], &two.bytes[1..]].concat(),
        certs,
        "chain_malformed",
    );
    w.add(
        "an indefinite array",
        5,
        &names,
        &[&[0x9f], &two.bytes[1..], &[0xff]].concat(),
        certs,
        "chain_malformed",
    );
    w.add(
        "6,001 bytes",
        5,
        &names,
        &vec![0x82; 6_001],
        certs,
        "chain_malformed",
    );
    let value = Carrier::Http.write(&two.bytes);
    let field = |chain: String| (chain, certs.map(|certs| Carrier::Http.write(certs)));
    w.add_fields(
        "a parameter",
        5,
        &names,
        field(format!("{value};v=1")),
        "chain_malformed",
    );
    w.add_fields(
        "two values",
        5,
        &names,
        field(format!("{value}, {value}")),
        "chain_malformed",
    );
    w.add_fields(
        "no colons",
        5,
        &names,
        field(value.trim_matches(':').to_owned()),
        "chain_malformed",
    );
    w.add_fields(
        "base64url",
        5,
        &names,
        field(value.replace(['+', '/'], "-")),
        "chain_malformed",
    );
}

fn signatures(w: &mut VectorWriter, two: &Forgery) {
    let names = ["a", "b", "c"];
    let other = w.plain(&names);
    let spliced = codec::append(&codec::append(&[], 0, &other.links[0]), 1, &two.links[1]);
    let three = w.plain(&["a", "b", "c", "d"]);
    let mut replaced = codec::append(&[], 0, &other.links[0]);
    for (i, link) in three.links.iter().enumerate().skip(1) {
        replaced = codec::append(&replaced, i, link);
    }
    let invalid = "chain_signature_invalid";
    w.add(
        "the last link below another first link",
        2,
        &names,
        &spliced,
        two.certs.as_deref(),
        "permit",
    );
    w.add(
        "a middle link below another first link",
        2,
        &["a", "b", "c", "d"],
        &replaced,
        three.certs.as_deref(),
        invalid,
    );
    let cut = codec::append(&[], 0, &two.links[1]);
    w.add(
        "the first link cut off",
        2,
        &names,
        &cut,
        None,
        "chain_malformed",
    );
    w.add(
        "certificates left out",
        2,
        &names,
        &two.bytes,
        None,
        "chain_key_unknown",
    );
    let mut altered = two.bytes.clone();
    let at = two.links[0].len();
    altered[at] ^= 1;
    w.add(
        "the first signature altered",
        6,
        &names,
        &altered,
        two.certs.as_deref(),
        invalid,
    );
    let mut altered = two.bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    w.add(
        "the last signature altered",
        6,
        &names,
        &altered,
        two.certs.as_deref(),
        "permit",
    );
    let mut zero = two.bytes.clone();
    let start = zero.len() - 64;
    zero[start..].fill(0);
    w.add(
        "a signature of zeros",
        6,
        &names,
        &zero,
        two.certs.as_deref(),
        "chain_malformed",
    );
    let mut high = two.bytes.clone();
    let start = high.len() - 32;
    high[start] = 0xf0;
    w.add(
        "an s over half of the order",
        6,
        &names,
        &high,
        two.certs.as_deref(),
        "chain_malformed",
    );
    let intruder = w.fixture.get("f").identity.clone();
    w.forged(
        "a first link by a key that is not the originator's",
        2,
        &names,
        "chain_key_unknown",
        |i, forged| {
            if i == 0 {
                forged.signer = intruder.clone();
            }
        },
    );
}
