//! A chain, whatever its bytes, is read or refused without a panic, and a reader accepts only what its own encoder
//! writes: what decodes encodes to the same bytes.

#![no_main]

use countersign_mesh::Chain;
use countersign_mesh::chain::{MAX_CHAIN_LEN, MAX_LINKS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(chain) = Chain::decode(bytes.to_vec()) else { return };
    assert_eq!(chain.encode(), bytes);
    assert!(bytes.len() <= MAX_CHAIN_LEN);
    assert!((1..=MAX_LINKS).contains(&chain.links().len()));
    assert_eq!(chain.via().count(), chain.links().len());
    for (i, link) in chain.links().iter().enumerate() {
        assert!(chain.signer(i).is_some_and(|id| !id.path().is_empty()));
        assert!((1..=16).contains(&link.claims.max_hops));
    }
});
