//! A certificate authority for tests: real keys, real certificates.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::X509Authority;
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::jwt::{JwtSigner, random_key_id};
use countersign_identity::{
    Bundle, KeyType, PrivateKey, SpiffeId, TrustDomain, UnixTime, X509Svid,
};
use rustls_pki_types::CertificateDer;

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

pub(crate) struct TestCa {
    trust_domain: TrustDomain,
    ca: IssuingCa,
    jwt: JwtSigner,
}

impl TestCa {
    pub(crate) fn new(now: UnixTime) -> Self {
        Self::of(&trust_domain(), now)
    }

    pub(crate) fn of(trust_domain: &TrustDomain, now: UnixTime) -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let der =
            self_signed_authority(trust_domain, &Subject::authority(), &key, day, now).unwrap();
        let jwt_key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let key_id = random_key_id().unwrap();
        Self {
            trust_domain: trust_domain.clone(),
            ca: IssuingCa::new(der, vec![], Arc::new(key)).unwrap(),
            jwt: JwtSigner::new(jwt_key, key_id, now.after(day)),
        }
    }

    pub(crate) fn authority(&self) -> &X509Authority {
        self.ca.authority()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        bundle.x509_authorities.push(self.authority().clone());
        bundle.sequence_number = 1;
        bundle
    }

    /// With the JWT key too.
    pub(crate) fn whole_bundle(&self) -> Bundle {
        let mut bundle = self.bundle();
        bundle.jwt_authorities.push(self.jwt.authority());
        bundle
    }

    pub(crate) fn jwt(&self) -> &JwtSigner {
        &self.jwt
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
