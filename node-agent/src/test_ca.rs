//! A certificate authority for tests: real keys, real certificates.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::X509Authority;
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::{
    Bundle, KeyType, PrivateKey, SpiffeId, TrustDomain, UnixTime, X509Svid,
};
use rustls_pki_types::CertificateDer;

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

pub(crate) struct TestCa {
    ca: IssuingCa,
}

impl TestCa {
    pub(crate) fn new(now: UnixTime) -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let der =
            self_signed_authority(&trust_domain(), &Subject::authority(), &key, day, now).unwrap();
        Self {
            ca: IssuingCa::new(der, vec![], Arc::new(key)).unwrap(),
        }
    }

    pub(crate) fn authority(&self) -> &X509Authority {
        self.ca.authority()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(trust_domain());
        bundle.x509_authorities.push(self.authority().clone());
        bundle.sequence_number = 1;
        bundle
    }

    pub(crate) fn sign(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        ttl: Duration,
        now: UnixTime,
    ) -> Vec<CertificateDer<'static>> {
        self.ca
            .issue(
                &SvidTemplate {
                    id,
                    dns_names: &[],
                    ttl,
                },
                key,
                now,
            )
            .unwrap()
            .chain
    }

    pub(crate) fn issue(&self, id: &SpiffeId, ttl: Duration, now: UnixTime) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let chain = self.sign(id, &PublicKey::of(&key).unwrap(), ttl, now);
        X509Svid::new(chain, key).unwrap()
    }
}
