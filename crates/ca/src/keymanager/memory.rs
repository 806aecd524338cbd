//! Keys that live as long as the process: after a restart the server makes a new authority.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::key::{KeyType, PrivateKey};

use super::{KeyManager, KeyManagerError, KeyName, ManagedKey};

/// Keeps keys in memory only.
#[derive(Debug, Default)]
pub struct MemoryKeyManager {
    keys: Mutex<HashMap<KeyName, ManagedKey>>,
}

impl MemoryKeyManager {
    /// A manager without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashMap<KeyName, ManagedKey>> {
        // Each change is one call on the map, so that a panic elsewhere cannot leave it half changed.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyManager for MemoryKeyManager {
    fn generate(&self, key_type: KeyType) -> Result<ManagedKey, KeyManagerError> {
        let key = PrivateKey::generate(key_type)
            .map_err(|source| KeyManagerError::Generate { key_type, source })?;
        let key = ManagedKey::new(KeyName::random(), Arc::new(key));
        self.keys().insert(key.name().clone(), key.clone());
        Ok(key)
    }

    fn list(&self) -> Result<Vec<ManagedKey>, KeyManagerError> {
        Ok(self.keys().values().cloned().collect())
    }

    fn remove(&self, name: &KeyName) -> Result<(), KeyManagerError> {
        self.keys().remove(name);
        Ok(())
    }

    fn durable(&self) -> bool {
        false
    }
}
