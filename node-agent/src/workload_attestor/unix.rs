//! The `unix` workload attestor: user, groups and executable of a process (wire contract, F.5).

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::digest::{DigestError, Digests};
use super::names::{Account, AccountNames};
use super::process::Process;
use super::{AttestorError, Deadline, ProcessError, Values, WorkloadAttestor, on_blocking_thread};
use crate::limits;

/// What to find out about the executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discover {
    /// Nothing: SPIRE's default, since looking takes the same user or root.
    UsersOnly,
    /// Path, and digest if asked for.
    Executable(Digest),
}

/// Whether executables are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// No `unix:sha256`.
    Off,
    /// Executables of any size.
    AnySize,
    /// Executables of at most this many bytes; a larger one fails the attestation.
    UpTo(u64),
}

/// The attestor.
#[derive(Debug)]
pub(crate) struct Unix {
    discover: Discover,
    digests: Digests,
    names: AccountNames,
}

impl Unix {
    /// An attestor that finds out this much.
    #[must_use]
    pub(crate) fn new(discover: Discover) -> Self {
        Self {
            discover,
            digests: Digests::default(),
            names: AccountNames::default(),
        }
    }
}

impl WorkloadAttestor for Unix {
    fn name(&self) -> &'static str {
        "unix"
    }

    fn timeout(&self) -> Duration {
        limits::UNIX_ATTESTOR
    }

    fn attest(self: Arc<Self>, process: Arc<Process>, deadline: Deadline) -> Values {
        async move { self.values(&process, deadline).await }.boxed()
    }
}

impl Unix {
    /// What the kernel has in memory is read here: handing it to another thread would take longer. AccountNames and digests may
    /// have to come from a disk or over the network.
    async fn values(
        self: &Arc<Self>,
        process: &Arc<Process>,
        deadline: Deadline,
    ) -> Result<Vec<String>, AttestorError> {
        let status = process.status()?;
        let mut accounts = vec![Account::User(status.uid), Account::Group(status.gid)];
        accounts.extend(status.groups.iter().copied().map(Account::Group));
        let names = self.names.of(process, &accounts).await?;

        let mut values = vec![format!("uid:{}", status.uid)];
        let user = names.get(&Account::User(status.uid));
        values.extend(user.map(|name| format!("user:{name}")));
        values.push(format!("gid:{}", status.gid));
        let group = names.get(&Account::Group(status.gid));
        values.extend(group.map(|name| format!("group:{name}")));
        for gid in status.groups {
            values.push(format!("supplementary_gid:{gid}"));
            let group = names.get(&Account::Group(gid));
            values.extend(group.map(|name| format!("supplementary_group:{name}")));
        }
        if let Discover::Executable(digest) = self.discover {
            let path = process.executable_path()?;
            // A path that is not UTF-8 can't be a selector: it yields none rather than a look-alike.
            let path = std::str::from_utf8(path.as_os_str().as_bytes());
            values.extend(path.map(|path| format!("path:{path}")));
            values.extend(self.digest(process, digest, deadline).await?);
        }
        Ok(values)
    }

    async fn digest(
        self: &Arc<Self>,
        process: &Arc<Process>,
        digest: Digest,
        deadline: Deadline,
    ) -> Result<Option<String>, AttestorError> {
        let limit = match digest {
            Digest::Off => return Ok(None),
            Digest::AnySize => None,
            Digest::UpTo(bytes) => Some(bytes),
        };
        let own = Arc::clone(self);
        let hashed = on_blocking_thread(process, move |process| {
            let mut executable = process.executable()?;
            let hex = own.digests.hex(&mut executable, limit, &deadline);
            hex.map_err(|e| match e {
                DigestError::TooLarge(e) => AttestorError::TooLarge(e),
                other => ProcessError::Unreadable {
                    pid: process.pid(),
                    file: "exe",
                    reason: other.to_string(),
                }
                .into(),
            })
        });
        Ok(Some(format!("sha256:{}", hashed.await?)))
    }
}
