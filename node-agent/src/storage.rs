//! What the node agent stores on disk: its key and SVID, and the trust bundle, in one file.
//!
//! One file, because none of them is of use without the others; replaced whole, because the process may be killed at
//! any moment. A renewed SVID is written before its first use, beside the one in use: the server retires the old one
//! when it sees the new one, and this side can't know whether it did. So the next start finds both, newest first, and
//! one of them is good.

mod document;
mod format;
pub(crate) mod svids;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use countersign_identity::{Bundle, TrustDomain, UnixTime, X509Svid};
use countersign_transport::error::Chain;
use countersign_transport::file::{PRIVATE, WriteError, write_atomically};
use zeroize::Zeroizing;

pub(crate) use document::InvalidContent;
pub use format::{read as read_state, write as write_state};

use crate::limits;

const STATE_FILE: &str = "agent-state.json";
const LOCK_FILE: &str = "agent.lock";
/// Permissions of all users but the owner.
const OTHERS: u32 = 0o077;

/// The node agent's own identity.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Chain and key.
    pub svid: X509Svid,
    /// Whether the node proves itself again instead of renewing.
    pub reattestable: bool,
}

/// The stored state.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// The trust domain of this node.
    pub(crate) trust_domain: TrustDomain,
    /// The last known bundle.
    pub bundle: Option<Bundle>,
    /// The identity that the server has seen.
    in_use: Option<NodeIdentity>,
    /// A newer one that it may not have seen yet.
    renewed: Option<NodeIdentity>,
}

impl NodeState {
    /// Nothing yet.
    #[must_use]
    pub const fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            bundle: None,
            in_use: None,
            renewed: None,
        }
    }

    /// The identities to try, newest first.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &NodeIdentity> {
        self.renewed.iter().chain(&self.in_use)
    }

    /// The identities that have more than a second left (wire contract, C.7), newest first.
    pub(crate) fn usable_at(&self, now: UnixTime) -> Vec<NodeIdentity> {
        let least = now.after(std::time::Duration::from_secs(1));
        self.identities()
            .filter(|identity| identity.svid.not_after() > least)
            .cloned()
            .collect()
    }

    /// Records a newly attested identity; it supersedes all others.
    pub fn attested(&mut self, identity: NodeIdentity) {
        self.in_use = Some(identity);
        self.renewed = None;
    }

    /// Records a renewed identity; the old one stays valid until the new one has been used.
    pub fn renewed(&mut self, identity: NodeIdentity) {
        self.renewed = Some(identity);
    }

    /// The server has accepted this identity: removes all others. Returns whether that changed anything.
    pub(crate) fn used(&mut self, svid: &X509Svid) -> bool {
        let is = |identity: &NodeIdentity| identity.svid.leaf().serial == svid.leaf().serial;
        if self.renewed.as_ref().is_some_and(is) {
            self.in_use = self.renewed.take();
            return true;
        }
        if self.in_use.as_ref().is_some_and(is) && self.renewed.is_some() {
            self.renewed = None;
            return true;
        }
        false
    }

    /// Removes the identities, because the server no longer accepts the node.
    pub(crate) fn forget_identities(&mut self) {
        self.in_use = None;
        self.renewed = None;
    }
}

/// Why the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// It could not be made.
    #[error("cannot create data_dir {}: {reason}: create it, or make it writable for this user", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Files in it can't be opened.
    #[error("cannot open {}: {reason}: data_dir must be readable and writable for this user", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Another node agent uses it.
    #[error("data_dir {} is in use by another node agent: stop it, or give this one a data_dir of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The state file is not one.
    #[error(
        "{} is damaged ({}): move it away and start again with a new join token (countersign-server token generate)",
        path.display(),
        Chain(reason)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: InvalidContent,
    },
    /// The state was written by another user.
    #[error(
        "{} belongs to user {owner}, who could put another identity and other roots of trust there: remove it, or make it \
         this user's (chown) if it can be trusted",
        path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The state belongs to another trust domain.
    #[error("{} belongs to trust domain {found}, not to {configured}: use another data_dir, or move the file away", path.display())]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// Whose state it is.
        found: TrustDomain,
        /// What the configuration says.
        configured: TrustDomain,
    },
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The data directory, held by this process alone.
#[derive(Debug)]
pub(crate) struct Storage {
    path: PathBuf,
    _lock: File,
}

impl Storage {
    /// Takes the directory, makes it if need be, and reads the state that is in it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<(Self, NodeState), StorageError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|reason| StorageError::Create {
                path: directory.to_owned(),
                reason,
            })?;
        let lock = take_lock(directory)?;
        let storage = Self {
            path: directory.join(STATE_FILE),
            _lock: lock,
        };
        let state = storage
            .load(trust_domain)?
            .unwrap_or_else(|| NodeState::empty(trust_domain.clone()));
        // Checked now, not after a join token was used up for an SVID that can't be stored.
        storage.save(&state)?;
        Ok((storage, state))
    }

    /// Replaces the state. Blocks on the disk.
    ///
    /// # Errors
    /// The state could not be written; what was there before still is.
    pub(crate) fn save(&self, state: &NodeState) -> Result<(), StorageError> {
        Ok(write_atomically(
            &self.path,
            &format::write(state),
            PRIVATE,
        )?)
    }

    fn load(&self, trust_domain: &TrustDomain) -> Result<Option<NodeState>, StorageError> {
        let path = || self.path.clone();
        let open = |reason| StorageError::Open {
            path: path(),
            reason,
        };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(open(error)),
        };
        let metadata = file.metadata().map_err(open)?;
        let me = nix::unistd::geteuid().as_raw();
        if let Some(owner) = foreign(metadata.uid(), me) {
            return Err(StorageError::NotOurs {
                path: path(),
                owner,
            });
        }
        if metadata.mode() & OTHERS != 0 {
            tracing::warn!(
                path = %self.path.display(),
                mode = %format_args!("{:04o}", metadata.mode() & 0o7777),
                "Other users could read this node's key: evict the node if one may have, and attest it again"
            );
        }
        let mut text = Zeroizing::new(Vec::new());
        file.take(limits::STATE_FILE_BYTES)
            .read_to_end(&mut text)
            .map_err(open)?;
        let state = format::read(&text).map_err(|reason| StorageError::Damaged {
            path: path(),
            reason,
        })?;
        if state.trust_domain != *trust_domain {
            let (found, configured) = (state.trust_domain, trust_domain.clone());
            return Err(StorageError::OtherTrustDomain {
                path: path(),
                found,
                configured,
            });
        }
        Ok(Some(state))
    }
}

/// Whose a file is, if that is neither root nor the user with this ID.
fn foreign(owner: u32, me: u32) -> Option<u32> {
    (owner != 0 && owner != me).then_some(owner)
}

fn take_lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join(LOCK_FILE);
    let open = |reason| StorageError::Open {
        path: path.clone(),
        reason,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(PRIVATE)
        .open(&path)
        .map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StorageError::InUse {
            path: directory.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(open(source)),
    }
}

#[cfg(test)]
mod tests;
