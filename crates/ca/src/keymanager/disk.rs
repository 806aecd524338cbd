//! Keys as files: one PKCS #8 file per key, `<name>.key`, in a folder that belongs to one server.
//!
//! A key is whole on the disk before [`KeyManager::generate`] returns: written to a temporary file with mode 0600,
//! synced, renamed, and the folder synced. What a crash leaves behind is only ever a temporary file of ours, which the
//! next start removes. Any other file that is not a readable key is logged and left alone.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::key::{KeyType, PrivateKey};
use countersign_transport::error::Chain;
use countersign_transport::file;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{KeyManager, KeyManagerError, KeyName, ManagedKey};

/// The longest key file, in bytes (an RSA key of 4096 bits takes about 2,400).
const MAX_KEY_FILE: u64 = 16 * 1024;
const KEY_SUFFIX: &str = ".key";
/// Prefix and suffix of the temporary file that [`file::write_atomically`] writes for a key.
const TEMPORARY: (&str, &str) = (".", ".key.new");
const LOCK_FILE: &str = ".lock";
/// Names the server that the keys belong to.
const OWNER_FILE: &str = ".server-id";
/// The longest text that [`DiskKeyManager::claim`] writes, in bytes.
const MAX_OWNER: u64 = 256;
/// All permissions of group and others.
const OTHERS: u32 = 0o077;

/// Keeps each key in a file of one folder.
#[derive(Debug)]
pub struct DiskKeyManager {
    folder: PathBuf,
    keys: Mutex<HashMap<KeyName, ManagedKey>>,
    /// Holds the folder's lock until it is dropped.
    _lock: File,
}

impl DiskKeyManager {
    /// Opens a folder of keys, making it (mode 0700) if need be, and reads every key in it.
    ///
    /// # Errors
    /// The folder can't be made, read or locked, or another process has it.
    pub fn open(folder: &Path) -> Result<Self, KeyManagerError> {
        make_folder(folder)?;
        let lock = lock_folder(folder)?;
        let mut keys = HashMap::new();
        let at = |source| KeyManagerError::File {
            action: "list the key folder",
            path: folder.into(),
            source,
        };
        for file in fs::read_dir(folder).map_err(at)? {
            let file = file.map_err(at)?;
            if let Some(key) = read_listed(&file.path()) {
                keys.insert(key.name().clone(), key);
            }
        }
        Ok(Self {
            folder: folder.into(),
            keys: Mutex::new(keys),
            _lock: lock,
        })
    }

    /// Checks that the keys belong to this server and its store (decision 0010). A folder without an owner is claimed for
    /// this server.
    ///
    /// # Errors
    /// The keys belong to another server, or the file that names the owner can't be read or written.
    pub fn claim(&self, server_id: &str) -> Result<(), KeyManagerError> {
        let path = self.folder.join(OWNER_FILE);
        let mut owner = String::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_OWNER).read_to_string(&mut owner));
        match read {
            Ok(_) if owner.trim() == server_id => Ok(()),
            Ok(_) => Err(KeyManagerError::OtherServer {
                path: self.folder.clone(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let owner = format!("{server_id}\n");
                Ok(file::write_atomically(
                    &path,
                    owner.as_bytes(),
                    file::PRIVATE,
                )?)
            }
            Err(source) => Err(KeyManagerError::File {
                action: "read",
                path,
                source,
            }),
        }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashMap<KeyName, ManagedKey>> {
        // Each change is one call on the map, so that a panic elsewhere cannot leave it half changed.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, name: &KeyName) -> PathBuf {
        self.folder.join(format!("{name}{KEY_SUFFIX}"))
    }
}

impl KeyManager for DiskKeyManager {
    fn generate(&self, key_type: KeyType) -> Result<ManagedKey, KeyManagerError> {
        let key = PrivateKey::generate(key_type)
            .map_err(|source| KeyManagerError::Generate { key_type, source })?;
        let name = KeyName::random();
        file::write_atomically(&self.path_of(&name), &key.to_pkcs8(), file::PRIVATE)?;
        let key = ManagedKey::new(name, Arc::new(key));
        self.keys().insert(key.name().clone(), key.clone());
        Ok(key)
    }

    fn list(&self) -> Result<Vec<ManagedKey>, KeyManagerError> {
        Ok(self.keys().values().cloned().collect())
    }

    fn remove(&self, name: &KeyName) -> Result<(), KeyManagerError> {
        let path = self.path_of(name);
        match fs::remove_file(&path).and_then(|()| sync_folder(&self.folder)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyManagerError::File {
                action: "remove the key file",
                path,
                source,
            }),
            _ => {
                self.keys().remove(name);
                Ok(())
            }
        }
    }

    fn durable(&self) -> bool {
        true
    }
}

fn make_folder(folder: &Path) -> Result<(), KeyManagerError> {
    let failed = |source| KeyManagerError::File {
        action: "make the key folder",
        path: folder.into(),
        source,
    };
    if !folder.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent).map_err(failed)?;
        }
    }
    let mode = fs::metadata(folder).map_err(failed)?.mode();
    if mode & OTHERS != 0 {
        warn!(
            folder = %folder.display(),
            mode = %format_args!("{:04o}", mode & 0o7777),
            "Other users can look into the key folder: keys are written with mode 0600, but the folder should be 0700"
        );
    }
    Ok(())
}

fn lock_folder(folder: &Path) -> Result<File, KeyManagerError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let failed = |source| KeyManagerError::File {
        action: "lock the key folder with",
        path: path.clone(),
        source,
    };
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeyManagerError::InUse {
            path: folder.into(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The key in a file of the folder; none if the file is something else, which is logged.
fn read_listed(path: &Path) -> Option<ManagedKey> {
    let file_name = path.file_name()?.to_str().unwrap_or_default();
    if file_name == LOCK_FILE || file_name == OWNER_FILE {
        return None;
    }
    let (before, after) = TEMPORARY;
    let interrupted = file_name
        .strip_prefix(before)
        .and_then(|name| name.strip_suffix(after));
    if interrupted.and_then(KeyName::parse).is_some() {
        debug!(path = %path.display(), "Removing what an interrupted write of a key left behind");
        if let Err(error) = fs::remove_file(path) {
            warn!(path = %path.display(), error = %Chain(&error), "Could not remove a temporary key file");
        }
        return None;
    }
    let Some(name) = file_name.strip_suffix(KEY_SUFFIX).and_then(KeyName::parse) else {
        warn!(path = %path.display(), "Leaving alone a file in the key folder that is not a key of this server");
        return None;
    };
    match read_key(path) {
        Ok(key) => Some(ManagedKey::new(name, Arc::new(key))),
        Err(error) => {
            warn!(path = %path.display(), error = %Chain(&error), "Leaving alone a key file that can't be used");
            None
        }
    }
}

fn read_key(path: &Path) -> io::Result<PrivateKey> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MAX_KEY_FILE {
        return Err(io::Error::other(format!(
            "not a regular file of at most {MAX_KEY_FILE} bytes"
        )));
    }
    if meta.mode() & OTHERS != 0 {
        warn!(path = %path.display(), "Other users can read this key file: set its mode to 0600");
    }
    let mut pkcs8 = Zeroizing::new(Vec::with_capacity(
        usize::try_from(meta.len()).unwrap_or_default(),
    ));
    file.by_ref().take(MAX_KEY_FILE).read_to_end(&mut pkcs8)?;
    PrivateKey::from_pkcs8(&pkcs8).map_err(io::Error::other)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
