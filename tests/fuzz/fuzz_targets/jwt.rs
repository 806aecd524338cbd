//! No token verifies but the one that was signed, whatever its header and claims say; all others are read without a
//! panic.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_identity::jwt::{JwtSigner, JwtTemplate, LEEWAY, verify_jwt};
use countersign_identity::{Bundle, BundleSet, KeyType, PrivateKey, SpiffeId, TrustDomain, UnixTime};
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// The one token that is sound, and the bundle that says so.
static WORLD: LazyLock<(String, BundleSet)> = LazyLock::new(|| {
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let signer = JwtSigner::new(Arc::new(key), "k".into(), NOW.after(HOUR));
    let mut bundle = Bundle::empty(TrustDomain::new("fuzz.test").expect("a valid name"));
    bundle.jwt_authorities.push(signer.authority());
    let id = SpiffeId::parse("spiffe://fuzz.test/w").expect("a valid ID");
    let audience = ["a".to_owned()];
    let template =
        JwtTemplate { id: &id, audience: &audience, ttl: HOUR, issuer: None, with_id: false };
    let token = signer.issue(&template, NOW).expect("a token").token;
    (token, BundleSet::from_iter([bundle]))
});

fuzz_target!(|text: &str| {
    let (sound, bundles) = &*WORLD;
    // Header and claims of the sound token with what follows in place of its signature, and the text alone.
    let signed = sound.rsplit_once('.').expect("a token").0;
    for token in [text.to_owned(), format!("{signed}.{text}")] {
        let verified = verify_jwt(&token, bundles, &["a"], NOW, LEEWAY);
        assert_eq!(verified.is_ok(), token == *sound);
    }
});
