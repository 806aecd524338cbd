//! The identity that signs links.

use std::sync::Arc;

use countersign_identity::key::KeyError;
use countersign_identity::{KeyId, KeyType, SigningKey, SpiffeId};

use super::OutboundError;
use crate::chain::{Algorithm, ChainStart, Claims, PrefixHash, codec};

/// One SVID generation, as far as it signs links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SigningIdentity {
    id: SpiffeId,
    kid: KeyId,
    algorithm: Algorithm,
    key: Arc<dyn SigningKey>,
}

/// The SVID's key cannot sign links.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} has a key of type {key_type}, but call chains are signed with ec-p256 or ec-p384: set \
     workload_x509_svid_key_type = \"ec-p256\" in the configuration of the node agent"
)]
pub struct UnusableKey {
    /// Whose key it is.
    pub id: SpiffeId,
    /// What kind it is.
    pub key_type: KeyType,
}

impl SigningIdentity {
    /// The identity that signs as `id` with its SVID's key.
    ///
    /// # Errors
    /// If the key is not on P-256 or P-384.
    pub fn new(id: SpiffeId, key: Arc<dyn SigningKey>) -> Result<Self, UnusableKey> {
        let key_type = key.key_type();
        match Algorithm::of(key_type) {
            Some(algorithm) => Ok(Self {
                id,
                kid: key.kid(),
                algorithm,
                key,
            }),
            None => Err(UnusableKey { id, key_type }),
        }
    }

    /// The SPIFFE ID that signs.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The ID of the key that signs.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// Signs one link and encodes it. `before` is the hash over all links before it; `start` is for a first link.
    pub(crate) fn sign_link(
        &self,
        claims: &Claims,
        start: Option<&ChainStart>,
        before: &PrefixHash,
    ) -> Result<Vec<u8>, OutboundError> {
        let protected = codec::encode_header(self.algorithm, &self.kid);
        let payload = codec::encode_claims(claims, start);
        let message = codec::to_be_signed(before, &protected, &payload);
        let failed = |source| OutboundError::Key {
            id: self.id.clone(),
            source,
        };
        let der = self.key.sign(&message).map_err(failed)?;
        let signature = self.algorithm.fixed_signature(&der).ok_or_else(|| {
            failed(KeyError::Sign(
                "the key gave no ASN.1 ECDSA signature".to_owned(),
            ))
        })?;
        Ok(codec::encode_link(&protected, &payload, &signature))
    }
}
