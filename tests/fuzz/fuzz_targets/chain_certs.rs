//! The certificates that come with a chain are read or refused without a panic, within their bounds, and what decodes
//! encodes to the same bytes.

#![no_main]

use countersign_identity::verify::Leaf;
use countersign_mesh::chain::CertSet;
use countersign_mesh::chain::certs::{MAX_CERTS_LEN, MAX_INTERMEDIATES, MAX_LEAVES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(set) = CertSet::decode(bytes.to_vec()) else { return };
    let leaves: Vec<_> = set.leaves().collect();
    let intermediates: Vec<_> = set.intermediates().collect();
    assert!(bytes.len() <= MAX_CERTS_LEN);
    assert!((1..=MAX_LEAVES).contains(&leaves.len()) && intermediates.len() <= MAX_INTERMEDIATES);
    let again = CertSet::encode(leaves.iter().map(AsRef::as_ref), intermediates.iter().map(AsRef::as_ref));
    assert_eq!(again.as_deref(), Some(bytes));
    // Opening what came along is part of the verification, and may find anything.
    for leaf in &leaves {
        let _ = Leaf::parse(leaf);
    }
});
