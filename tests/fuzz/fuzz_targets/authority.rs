//! An authority with real keys and real certificates, for targets that need something sound to begin with.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::jwt::JwtSigner;
use countersign_identity::{Bundle, KeyType, PrivateKey, SpiffeId, TrustDomain, UnixTime, X509Svid};
use countersign_transport::{Clock as _, SystemClock};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Authority {
    pub(super) trust_domain: TrustDomain,
    pub(super) jwt: JwtSigner,
    ca: IssuingCa,
    now: UnixTime,
}

impl Authority {
    pub(super) fn new(trust_domain: &str) -> Self {
        let now = SystemClock.now();
        let trust_domain = TrustDomain::new(trust_domain).expect("a name");
        let key = || PrivateKey::generate(KeyType::EcP256).expect("a key");
        let own = key();
        let der = self_signed_authority(&trust_domain, &Subject::authority(), &own, 2 * DAY, now);
        Self {
            ca: IssuingCa::new(der.expect("a certificate"), vec![], Arc::new(own)).expect("an authority"),
            jwt: JwtSigner::new(Arc::new(key()), "k".into(), now.after(2 * DAY)),
            trust_domain,
            now,
        }
    }

    /// With the JWT key.
    pub(super) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        bundle.x509_authorities.push(self.ca.authority().clone());
        bundle.jwt_authorities.push(self.jwt.authority());
        bundle
    }

    pub(super) fn svid(&self, id: &SpiffeId) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        let template = SvidTemplate { id, dns_names: &[], ttl: DAY };
        let public = PublicKey::of(&key).expect("a public key");
        let issued = self.ca.issue(&template, &public, self.now).expect("an SVID");
        X509Svid::new(issued.chain, key).expect("an SVID")
    }
}
