//! Workloads' SVIDs on disk, encrypted, for the next process to serve while the server is unreachable.
//!
//! One file, replaced whole, under AES-256-GCM. The key lies in a file of its own that only this account reads, or
//! comes from systemd (`LoadCredentialEncrypted`), and then a stolen disk reveals nothing. A file that is damaged,
//! foreign or under another key counts as none: nothing here is needed to start.

mod format;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use countersign_identity::TrustDomain;
use countersign_transport::error::Chain;
use countersign_transport::file::{PRIVATE, WriteError, write_atomically};
use rand::RngCore as _;
use zeroize::Zeroizing;

pub use format::{Kept, read as read_plain, write as write_plain};

use super::{InvalidContent, OTHERS};
use crate::limits;

const FILE: &str = "agent-svids.bin";
const KEY_FILE: &str = "agent-svids.key";
/// The credential's name in the unit file.
const CREDENTIAL: &str = "countersign-agent-svids.key";
/// systemd's credentials are owned by root and readable for the unit's user by an ACL, which appears in the group's
/// bits.
const GROUP_READS: u32 = 0o040;
const KEY: usize = 32;
/// What the file begins with; the last byte is the version.
const MAGIC: &[u8; 8] = b"CSASVID\x01";

/// Why the stored SVIDs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to another user, or others may read it.
    #[error("{} belongs to user {owner} and has mode {mode:04o}: it must be this user's alone", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// It is damaged, or encrypted with another key.
    #[error("{} is not usable", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
    /// The key could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It is another kind of file, or one of another version.
    #[error("it does not begin as a file of this version")]
    Header,
    /// Decryption with this key failed.
    #[error("it was written under another key, or changed since")]
    Seal,
    /// It is a key of another length.
    #[error("a key has {KEY} bytes")]
    KeyLength,
    /// What is encrypted in it is not valid.
    #[error(transparent)]
    Content(#[from] InvalidContent),
}

/// The file with workloads' SVIDs, and its key.
#[derive(Debug)]
pub struct SvidStore {
    path: PathBuf,
    key: Zeroizing<[u8; KEY]>,
    trust_domain: TrustDomain,
}

impl SvidStore {
    /// Opens the store in this directory, whose lock the caller holds, and creates its key if there is none.
    ///
    /// # Errors
    /// [`Unusable`]: there is no key, and none could be made.
    pub fn open(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, Unusable> {
        // systemd's directory of credentials (systemd.exec(5)).
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        Self::open_with(
            directory,
            credentials.map(PathBuf::from).as_deref(),
            trust_domain,
        )
    }

    fn open_with(
        directory: &Path,
        credentials: Option<&Path>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, Unusable> {
        let credential = credentials.map(|folder| folder.join(CREDENTIAL));
        let key = match credential.filter(|path| path.exists()) {
            Some(path) => read_key(&path, OTHERS & !GROUP_READS)?,
            None => own_key(&directory.join(KEY_FILE))?,
        };
        Ok(Self {
            path: directory.join(FILE),
            key,
            trust_domain: trust_domain.clone(),
        })
    }

    /// Loads the SVIDs that an earlier process wrote; `None` if there is no file.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn load(&self) -> Result<Option<Kept>, Unusable> {
        read_private(&self.path, limits::SVIDS_FILE_BYTES, OTHERS)?
            .map(|sealed| self.unseal(sealed))
            .transpose()
    }

    /// Decrypts and parses the content of a file.
    ///
    /// # Errors
    /// [`Unusable::Damaged`]: the content is not what [`SvidStore::save`] wrote with the same key.
    pub fn unseal(&self, mut sealed: Zeroizing<Vec<u8>>) -> Result<Kept, Unusable> {
        let fail = |source| Unusable::Damaged {
            path: self.path.clone(),
            source,
        };
        let nonce = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk::<NONCE_LEN>())
            .ok_or_else(|| fail(Damage::Header))?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let body = sealed
            .get_mut(MAGIC.len() + NONCE_LEN..)
            .unwrap_or_default();
        let plain = self
            .cipher()
            .and_then(|cipher| cipher.open_in_place(nonce, self.associated(), body).ok())
            .ok_or_else(|| fail(Damage::Seal))?;
        format::read(plain, &self.trust_domain).map_err(|error| fail(error.into()))
    }

    /// Replaces the stored SVIDs. Blocks on the disk.
    ///
    /// # Errors
    /// The file could not be written; its previous content is unchanged.
    pub fn save(&self, plain: &mut Zeroizing<Vec<u8>>) -> Result<(), WriteError> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let tag = self.cipher().and_then(|cipher| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            cipher
                .seal_in_place_separate_tag(nonce, self.associated(), plain)
                .ok()
        });
        let tag = tag.ok_or_else(|| WriteError {
            path: self.path.clone(),
            step: "encrypting",
            source: io::ErrorKind::Other.into(),
        })?;
        let sealed = [&MAGIC[..], &nonce, plain, tag.as_ref()].concat();
        write_atomically(&self.path, &sealed, PRIVATE)
    }

    /// Removes the stored SVIDs: this node must not serve them any more.
    ///
    /// # Errors
    /// The file could not be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.key[..])
            .ok()
            .map(LessSafeKey::new)
    }

    /// The associated data: a file of another trust domain or version does not decrypt.
    fn associated(&self) -> Aad<Vec<u8>> {
        Aad::from([MAGIC, self.trust_domain.as_str().as_bytes()].concat())
    }
}

/// The key of this node's own file, made if there is none.
fn own_key(path: &Path) -> Result<Zeroizing<[u8; KEY]>, Unusable> {
    match read_key(path, OTHERS) {
        Err(Unusable::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error @ (Unusable::Read { .. } | Unusable::Write(_))) => return Err(error),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "Making a new key for workloads' SVIDs on disk");
        }
        Ok(key) => return Ok(key),
    }
    let mut key = Zeroizing::new([0; KEY]);
    rand::rng().fill_bytes(&mut key[..]);
    write_atomically(path, &key[..], PRIVATE)?;
    Ok(key)
}

fn read_key(path: &Path, forbidden: u32) -> Result<Zeroizing<[u8; KEY]>, Unusable> {
    let most = u64::try_from(KEY + 1).unwrap_or(u64::MAX);
    let bytes = read_private(path, most, forbidden)?.ok_or_else(|| Unusable::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let key = <[u8; KEY]>::try_from(&bytes[..]).map_err(|_| Unusable::Damaged {
        path: path.to_owned(),
        source: Damage::KeyLength,
    })?;
    Ok(Zeroizing::new(key))
}

/// A file that is this user's, with none of the permissions in `forbidden`; `None` if there is no file.
fn read_private(
    path: &Path,
    most: u64,
    forbidden: u32,
) -> Result<Option<Zeroizing<Vec<u8>>>, Unusable> {
    let fail = |source| Unusable::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let metadata = file.metadata().map_err(fail)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let me = nix::unistd::geteuid().as_raw();
    if super::foreign(owner, me).is_some() || mode & forbidden != 0 {
        return Err(Unusable::Exposed {
            path: path.to_owned(),
            owner,
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len().min(most)).unwrap_or_default(),
    ));
    file.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
