//! The `unix` workload attestor: user, groups and executable of a process (wire contract, F.5).

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use nix::unistd::{Gid, Group, Uid, User};

use super::digest::{DigestError, Digests};
use super::process::Process;
use super::{AttestorError, Patience, ProcessError, Values, WorkloadAttestor, looking};
use crate::limits;

/// What to find out about the executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discover {
    /// Nothing: SPIRE's default, since looking takes the same user or root.
    UsersOnly,
    /// Path, and digest if asked for.
    Executable(Digest),
}

/// Whether executables are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// No `unix:sha256`.
    Off,
    /// Executables of any size.
    AnySize,
    /// Executables of at most this many bytes; a larger one fails the attestation.
    UpTo(u64),
}

/// The attestor.
#[derive(Debug)]
pub struct Unix {
    discover: Discover,
    digests: Arc<Digests>,
}

impl Unix {
    /// An attestor that finds out this much.
    #[must_use]
    pub fn new(discover: Discover) -> Self {
        Self {
            discover,
            digests: Arc::default(),
        }
    }
}

impl WorkloadAttestor for Unix {
    fn name(&self) -> &'static str {
        "unix"
    }

    fn deadline(&self) -> Duration {
        limits::UNIX_ATTESTOR
    }

    fn attest(self: Arc<Self>, process: Arc<Process>, patience: Patience) -> Values {
        async move { looking(&process, move |process| self.values(process, &patience)).await }
            .boxed()
    }
}

impl Unix {
    fn values(&self, process: &Process, patience: &Patience) -> Result<Vec<String>, AttestorError> {
        let status = process.status()?;
        let mut values = vec![format!("uid:{}", status.uid)];
        values.extend(user_name(status.uid).map(|name| format!("user:{name}")));
        values.push(format!("gid:{}", status.gid));
        values.extend(group_name(status.gid).map(|name| format!("group:{name}")));
        for gid in status.groups {
            values.push(format!("supplementary_gid:{gid}"));
            values.extend(group_name(gid).map(|name| format!("supplementary_group:{name}")));
        }
        if let Discover::Executable(digest) = self.discover {
            values.extend(self.executable(process, digest, patience)?);
        }
        Ok(values)
    }

    fn executable(
        &self,
        process: &Process,
        digest: Digest,
        patience: &Patience,
    ) -> Result<Vec<String>, AttestorError> {
        let path = process.executable_path()?;
        // A path that is not UTF-8 can't be a selector: it yields none rather than a look-alike.
        let mut values = Vec::new();
        values.extend(
            std::str::from_utf8(path.as_os_str().as_bytes()).map(|path| format!("path:{path}")),
        );
        let limit = match digest {
            Digest::Off => return Ok(values),
            Digest::AnySize => None,
            Digest::UpTo(bytes) => Some(bytes),
        };
        let hex = self
            .digests
            .hex(&mut process.executable()?, limit, patience)
            .map_err(|e| match e {
                DigestError::TooLarge(e) => AttestorError::TooLarge(e),
                other => ProcessError::Unreadable {
                    pid: process.pid(),
                    file: "exe",
                    reason: other.to_string(),
                }
                .into(),
            })?;
        values.push(format!("sha256:{hex}"));
        Ok(values)
    }
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid))
        .ok()
        .flatten()
        .map(|group| group.name)
}
