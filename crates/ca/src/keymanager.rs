//! Where the server's signing keys live.
//!
//! A [`KeyManager`] makes, lists and removes keys; it does not know what a key is for. The trait is synchronous, as files
//! and hardware are: callers run it on blocking threads. The authority is the only caller.

pub mod disk;
pub mod memory;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_identity::key::{KeyError, KeyType, SigningKey};

#[cfg(test)]
mod tests;

pub use disk::DiskKeyManager;
pub use memory::MemoryKeyManager;

/// The length of a key's name, in characters.
const NAME_LEN: usize = 32;

/// The name of one key: 32 random lower-case hexadecimal characters.
///
/// A name does not say what the key is for. Two keys never share one, so making a key can't overwrite another.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// A fresh name.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string().into())
    }

    /// Parses a stored name; none if it is not one that [`KeyName::random`] makes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == NAME_LEN && text.bytes().all(hex)).then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A signing key and the name that its key manager knows it by. Cheap to clone.
#[derive(Clone)]
pub struct ManagedKey {
    name: KeyName,
    key: Arc<dyn SigningKey>,
}

impl ManagedKey {
    /// Joins a key with its name; for key managers.
    #[must_use]
    pub fn new(name: KeyName, key: Arc<dyn SigningKey>) -> Self {
        Self { name, key }
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The key, to sign with from anywhere.
    #[must_use]
    pub fn signer(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.key)
    }
}

impl SigningKey for ManagedKey {
    fn key_type(&self) -> KeyType {
        self.key.key_type()
    }

    fn spki(&self) -> &[u8] {
        self.key.spki()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.key.sign(message)
    }
}

impl fmt::Debug for ManagedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedKey")
            .field("name", &self.name)
            .field("type", &self.key.key_type())
            .finish_non_exhaustive()
    }
}

/// Makes, lists and removes signing keys. Calls block.
pub trait KeyManager: Send + Sync + 'static {
    /// Makes a key under a fresh name. When this returns, the key outlives the process if the manager's keys do.
    ///
    /// # Errors
    /// The key could not be made, or not be made durable.
    fn generate(&self, key_type: KeyType) -> Result<ManagedKey, KeyManagerError>;

    /// Every usable key, in no particular order. Keys that can't be read are left out; opening the manager logged them.
    ///
    /// # Errors
    /// The place where keys live can't be read at all.
    fn list(&self) -> Result<Vec<ManagedKey>, KeyManagerError>;

    /// Removes a key. A missing key is not an error.
    ///
    /// # Errors
    /// The key exists but can't be removed.
    fn remove(&self, name: &KeyName) -> Result<(), KeyManagerError>;

    /// Whether keys outlive the process.
    fn durable(&self) -> bool;
}

/// Why a key manager failed.
#[derive(Debug, thiserror::Error)]
pub enum KeyManagerError {
    /// The cryptographic library could not make a key.
    #[error("could not generate a signing key of type {key_type:?}")]
    Generate {
        /// The requested type.
        key_type: KeyType,
        /// Why.
        source: KeyError,
    },
    /// A file or folder could not be used.
    #[error("key manager \"disk\" could not {action} {}: check that the folder exists and that this user may write there", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A key could not be made durable.
    #[error(
        "the new signing key was not stored: check that this user may write there and that the disk is not full"
    )]
    Write(#[from] countersign_transport::file::WriteError),
    /// The keys belong to a server with another store. Starting would delete them, since this store's journal does not name
    /// them (decision 0010).
    #[error(
        "the keys in {} belong to a server with another store: check that data_dir and keys_path are those of one server \
         and that their disks are mounted. If that store is gone for good, move the key folder away",
        path.display()
    )]
    OtherServer {
        /// The folder.
        path: PathBuf,
    },
    /// Another process uses the folder.
    #[error(
        "the key folder {} is in use by another process: stop the other server, or give this one a folder of its own",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}
