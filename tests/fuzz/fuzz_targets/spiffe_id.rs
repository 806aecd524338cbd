//! What parses as a SPIFFE ID prints as the same bytes, and its parts put together make the same ID again.
#![no_main]

use countersign_identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        let again = id.trust_domain().id_with_path(id.path()).expect("parts of a valid ID");
        assert_eq!(again, id);
        assert!(id.segments().all(|s| !s.is_empty() && s != "." && s != ".."));
        assert!(!(id.is_workload() && id.is_reserved()));
    }
    if let Ok(domain) = TrustDomain::new(text) {
        assert_eq!(SpiffeId::parse(&format!("spiffe://{text}")), Ok(domain.id()));
    }
});
