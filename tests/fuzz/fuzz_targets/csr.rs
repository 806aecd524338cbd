//! A signing request that parses gives the public key that stands in it, byte for byte, and whatever is issued for it
//! carries that key; certificates and chains are read without a panic.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_identity::csr::Csr;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::verify::Leaf;
use countersign_identity::{KeyType, PrivateKey, SpiffeId, TrustDomain, UnixTime, svid};
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

static CA: LazyLock<IssuingCa> = LazyLock::new(|| {
    let domain = TrustDomain::new("fuzz.test").expect("a valid name");
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let subject = Subject::authority();
    let cert = self_signed_authority(&domain, &subject, &key, HOUR, NOW).expect("an authority");
    IssuingCa::new(cert, Vec::new(), Arc::new(key)).expect("an issuer")
});

fuzz_target!(|der: &[u8]| {
    let _ = Leaf::parse(der);
    if let Ok(chain) = svid::split_der(der) {
        let joined: Vec<u8> = chain.iter().flat_map(|c| c.to_vec()).collect();
        assert_eq!(joined, der);
    }
    let Ok(csr) = Csr::parse(der) else { return };
    if csr.verify_signature().is_err() {
        return;
    }
    let id = SpiffeId::parse("spiffe://fuzz.test/w").expect("a valid ID");
    let template = SvidTemplate { id: &id, dns_names: &[], ttl: HOUR };
    let issued = CA.issue(&template, csr.public_key(), NOW).expect("issued for a valid request");
    let leaf = Leaf::parse(&issued.chain[0]).expect("an SVID of our own");
    assert_eq!(leaf.spki, csr.public_key().spki());
    assert_eq!(leaf.id, id);
});
