//! The test vectors in `crates/mesh/vectors/`, the contract for other languages: keys, certificates, fields and outcomes.
//!
//! ECDSA signatures differ each time, so the vectors are written once and read from then on. To write them anew:
//! `cargo test -p countersign-mesh --lib vectors::write -- --ignored`.

mod write;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::{Bundles, X509Authority};
use countersign_identity::{BundleSet, Now, PrivateKey, SigningKey as _, SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::chain::{Chain, codec};
use crate::decide::{Engine, InboundRequest, PeerView};
use crate::fixture::{bundle, fields};
use crate::{Carrier, Policy};

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Vectors {
    about: String,
    /// Unix seconds at which every decision is made.
    now: u64,
    /// Authorities by trust domain, DER in hex.
    bundles: BTreeMap<String, Vec<String>>,
    workloads: BTreeMap<String, VectorWorkload>,
    policy: String,
    vectors: Vec<Vector>,
}

#[derive(Debug, Serialize, Deserialize)]
struct VectorWorkload {
    id: String,
    /// PKCS#8 in hex.
    private_key: String,
    /// SHA-256 of the SubjectPublicKeyInfo, in hex.
    kid: String,
    /// DER in hex, the leaf first.
    certificates: Vec<String>,
}

/// One request to a callee that has seen nothing before.
#[derive(Debug, Serialize, Deserialize)]
struct Vector {
    name: String,
    case: u8,
    /// Who presents the chain on its connection, and to whom.
    peer: String,
    callee: String,
    carrier: String,
    method: String,
    path: String,
    /// The value of the field that carries the chain.
    chain: String,
    /// The value of the field that carries the certificates.
    certs: Option<String>,
    /// `permit`, or the reason of the refusal.
    outcome: String,
    /// For a permit, whether the last link's signature holds.
    last_signature_holds: Option<bool>,
    /// For a chain that decodes: what it says.
    decoded: Option<Decoded>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decoded {
    iss: String,
    chain_id: String,
    links: Vec<DecodedLink>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DecodedLink {
    aud: String,
    exp: u64,
    iat: u64,
    cti: String,
    max_hops: u8,
    budget: u16,
    action: String,
    kid: String,
    /// What the signature covers, in hex.
    to_be_signed: String,
    /// r ‖ s, in hex.
    signature: String,
    /// p(i) for this link's i, in hex.
    prefix_hash: String,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/chains.json")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn decoded(chain: &Chain) -> Decoded {
    let mut before = crate::chain::NO_LINKS;
    let links = chain.links().iter().enumerate().map(|(i, link)| {
        let to_be_signed = chain.to_be_signed(i, &before);
        before = codec::prefix_after(&before, chain.link_bytes(i));
        DecodedLink {
            aud: link.claims.aud.to_string(),
            exp: link.claims.exp,
            iat: link.claims.iat,
            cti: hex(&link.claims.cti),
            max_hops: link.claims.max_hops,
            budget: link.claims.budget,
            action: link.claims.action.clone(),
            kid: link.kid.to_string(),
            to_be_signed: hex(&to_be_signed),
            signature: hex(chain.signature(i)),
            prefix_hash: hex(&before),
        }
    });
    Decoded {
        links: links.collect(),
        iss: chain.originator().to_string(),
        chain_id: chain.id().to_string(),
    }
}

fn carrier(name: &str) -> Carrier {
    match name {
        "http" => Carrier::Http,
        "grpc" => Carrier::Grpc,
        other => panic!("unknown carrier {other}"),
    }
}

fn bundles(vectors: &Vectors) -> Arc<dyn Bundles> {
    let of = |(name, authorities): (&String, &Vec<String>)| {
        let authority =
            |der: &String| X509Authority::new(CertificateDer::from(unhex(der))).unwrap();
        bundle(name, authorities.iter().map(authority).collect())
    };
    Arc::new(vectors.bundles.iter().map(of).collect::<BundleSet>())
}

/// What comes of one vector: the outcome, and whether the last signature holds.
fn run(vectors: &Vectors, vector: &Vector) -> (String, Option<bool>) {
    let at = Now {
        wall: UnixTime::from_secs(vectors.now),
        mono: Duration::from_secs(1),
    };
    let policy = Policy::parse(&vectors.policy).unwrap();
    let peer = &vectors.workloads[&vector.peer];
    let chain: Vec<_> = peer
        .certificates
        .iter()
        .map(|der| CertificateDer::from(unhex(der)))
        .collect();
    let leaf =
        countersign_identity::verify::verify_peer(&chain, bundles(vectors).as_ref(), at.wall)
            .unwrap();
    let presented = SpiffeId::parse(&vectors.workloads[&vector.callee].id).unwrap();
    let carrier = carrier(&vector.carrier);
    let fields = fields(carrier, &vector.chain, vector.certs.as_deref());
    let request = InboundRequest {
        peer: Some(PeerView {
            id: &leaf.id,
            kid: leaf.kid,
            chain: &chain,
            not_after: leaf.not_after,
        }),
        presented: &presented,
        method: &vector.method,
        path: &vector.path,
        carrier,
        fields,
    };
    match Engine::new(bundles(vectors)).decide(&policy, &request, at) {
        Ok(permit) => {
            let holds = permit.context().unwrap().check_signature(at).is_ok();
            ("permit".to_owned(), Some(holds))
        }
        Err(refusal) => (refusal.reason().to_string(), None),
    }
}

#[test]
fn every_vector_has_its_outcome() {
    let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path()).unwrap()).unwrap();
    assert!(vectors.vectors.len() >= 20);
    for (name, workload) in &vectors.workloads {
        let key = PrivateKey::from_pkcs8(&unhex(&workload.private_key)).unwrap();
        assert_eq!(key.kid().to_string(), workload.kid, "{name}");
    }
    for vector in &vectors.vectors {
        let (outcome, holds) = run(&vectors, vector);
        assert_eq!(
            (outcome, holds),
            (vector.outcome.clone(), vector.last_signature_holds),
            "{}",
            vector.name
        );
        let carrier = carrier(&vector.carrier);
        let chain = carrier
            .read(vector.chain.as_bytes(), crate::chain::MAX_CHAIN_LEN)
            .and_then(Chain::decode);
        assert_eq!(
            chain.ok().as_ref().map(decoded),
            vector.decoded,
            "{}",
            vector.name
        );
    }
}
