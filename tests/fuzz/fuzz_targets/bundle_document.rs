//! A bundle document that is read is written back and reads as the same bundle, whose JWT keys make a JWK set.
#![no_main]

use countersign_identity::TrustDomain;
use countersign_identity::bundle::document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let domain = TrustDomain::new("fuzz.test").expect("a valid name");
    let Ok(bundle) = document::read(&domain, json) else { return };
    assert_eq!(bundle.trust_domain, domain);
    let text = document::write(&bundle).expect("what was read can be written");
    assert_eq!(document::read(&domain, text.as_bytes()).as_ref(), Ok(&bundle));
    document::jwks(&bundle).expect("JWT keys of a kind that was read");
});
