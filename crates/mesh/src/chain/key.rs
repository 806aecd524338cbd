//! Public keys that verify links.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey};

use super::Algorithm;

/// A SubjectPublicKeyInfo up to the point's first coordinate: id-ecPublicKey, named curve P-256, uncompressed point.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for P-384.
const P384_SPKI: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
const UNCOMPRESSED: u8 = 4;

/// A key on P-256 or P-384, ready to verify.
pub(crate) struct LinkKey {
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl LinkKey {
    /// The key of a SubjectPublicKeyInfo; `None` unless it is an uncompressed point on one of the two named curves.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        let (algorithm, point) = match (spki.strip_prefix(P256_SPKI), spki.strip_prefix(P384_SPKI))
        {
            (Some(point), _) if point.len() == 65 => (Algorithm::Es256, point),
            (_, Some(point)) if point.len() == 97 => (Algorithm::Es384, point),
            _ => return None,
        };
        if point.first() != Some(&UNCOMPRESSED) {
            return None;
        }
        let verification = match algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        };
        let key = ParsedPublicKey::new(verification, point).ok()?;
        Some(Self { algorithm, key })
    }

    /// Whether this key made the signature, and with the algorithm that it implies.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        algorithm == self.algorithm && self.key.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKey({:?})", self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use countersign_identity::{KeyType, PrivateKey, SigningKey as _};

    use super::*;

    #[test]
    fn a_key_verifies_what_it_signed_under_its_own_algorithm_only() {
        for (key_type, other) in [
            (KeyType::EcP256, Algorithm::Es384),
            (KeyType::EcP384, Algorithm::Es256),
        ] {
            let private = PrivateKey::generate(key_type).unwrap();
            let algorithm = Algorithm::of(key_type).unwrap();
            let signature = algorithm
                .fixed_signature(&private.sign(b"message").unwrap())
                .unwrap();
            let key = LinkKey::from_spki(private.spki()).unwrap();
            assert!(key.verifies(algorithm, b"message", &signature));
            assert!(!key.verifies(algorithm, b"massage", &signature));
            assert!(!key.verifies(other, b"message", &signature));
        }
    }

    #[test]
    fn other_keys_and_other_forms_of_a_point_are_not_keys_of_links() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut hybrid = key.spki().to_vec();
        hybrid[P256_SPKI.len()] = 6;
        assert!(LinkKey::from_spki(&hybrid).is_none());
        let mut off_curve = key.spki().to_vec();
        off_curve[P256_SPKI.len() + 64] ^= 1;
        assert!(LinkKey::from_spki(&off_curve).is_none());
        assert!(LinkKey::from_spki(&key.spki()[..90]).is_none());
        let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        assert!(LinkKey::from_spki(rsa.spki()).is_none());
    }
}
