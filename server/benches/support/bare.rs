//! The cryptography that issuing an X.509-SVID can't do without.

use std::hint::black_box;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};

/// What a CSR and a certificate without its signature take, in bytes.
const MESSAGE: usize = 400;

/// One ECDSA P-256 verification and one signature, over messages of the usual length.
pub(crate) struct Bare {
    key: EcdsaKeyPair,
    random: SystemRandom,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Bare {
    /// With a new key.
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let message = vec![7; MESSAGE];
        let signature = key
            .sign(&random, &message)
            .expect("a signature")
            .as_ref()
            .to_vec();
        Self {
            key,
            random,
            message,
            signature,
        }
    }

    /// Once each.
    pub(crate) fn check_and_sign(&self) {
        let public =
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.key.public_key().as_ref());
        public
            .verify(&self.message, &self.signature)
            .expect("a good signature");
        black_box(
            self.key
                .sign(&self.random, &self.message)
                .expect("a signature"),
        );
    }
}
