//! One process, pinned so that neither a process with a reused PID nor a program that it executes later can pass for
//! it.
//!
//! Safety depends on the order of steps. The kernel reports for the socket which process connected: PID, UID, GID, and
//! a pidfd that refers to this process only ([`PeerProcess`]). `/proc/<pid>` is opened once as a directory; after that,
//! the pidfd must show that the process has not exited. Until it has, its PID is not reused, so the directory is the
//! caller's. All reads go through this directory, which returns errors, never another process's data, once its process
//! has exited. At the end the process must still run the program that it ran when it connected, as the same user: so
//! everything read in between belongs to one process and program (decision 0020).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use countersign_limits::Permit;
use countersign_transport::UnixCaller;
use countersign_transport::process::{PeerProcess, Since};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::limits;

/// The other end of a Unix socket, as the kernel reported it when it connected.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The process, in the node agent's PID namespace.
    pub(crate) pid: i32,
    /// Effective user.
    pub(crate) uid: u32,
    /// Effective group.
    pub(crate) gid: u32,
    /// The process itself.
    pub(crate) process: Arc<PeerProcess>,
}

impl Caller {
    /// What the kernel said when the connection was accepted.
    ///
    /// # Errors
    /// The process is not visible from here, or had ended before it was accepted.
    pub(crate) fn of(caller: &UnixCaller) -> Result<Self, ProcessError> {
        let pid = caller
            .pid
            .filter(|pid| *pid > 0)
            .ok_or(ProcessError::Invisible)?;
        // Without the process itself its number proves nothing.
        let process = caller
            .process
            .as_ref()
            .filter(|process| process.pid() == pid)
            .ok_or(ProcessError::Ended { pid })?;
        Ok(Self {
            pid,
            uid: caller.uid,
            gid: caller.gid,
            process: Arc::clone(process),
        })
    }

    /// The process that has this number now. That it is the right one is up to the caller of this function.
    ///
    /// # Errors
    /// There is none, or it can't be looked at.
    pub(crate) fn numbered(pid: i32) -> Result<Self, ProcessError> {
        if pid <= 0 {
            return Err(ProcessError::Invisible);
        }
        let ended = ProcessError::Ended { pid };
        let Ok(process) = PeerProcess::numbered(pid) else {
            return Err(ended);
        };
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let Some(status) = text.ok().and_then(|text| parse_status(&text)) else {
            return Err(ended);
        };
        Ok(Self {
            pid,
            uid: status.uid,
            gid: status.gid,
            process: Arc::new(process),
        })
    }
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The process that connected has ended; its PID may belong to another by now.
    #[error("process {pid}, which opened the connection, has ended")]
    Ended {
        /// Its number when it connected.
        pid: i32,
    },
    /// The process is in a PID namespace that the node agent can't see into.
    #[error(
        "the caller's process is not visible in the node agent's PID namespace: run the node agent in the host's"
    )]
    Invisible,
    /// The process became another program after it had connected, and the request may come from either.
    #[error(
        "process {pid} runs another program than when it connected: a program that is started gets its identity over a \
         connection of its own"
    )]
    ChangedProgram {
        /// Its number.
        pid: i32,
    },
    /// The process changed its user or group after it had connected.
    #[error("process {pid} connected as {was} and now runs as {is}")]
    ChangedUser {
        /// Its number.
        pid: i32,
        /// UID and GID of the connection.
        was: String,
        /// UID and GID now.
        is: String,
    },
    /// A file in `/proc/<pid>` could not be read.
    #[error("could not read /proc/{pid}/{file}: {reason}")]
    Unreadable {
        /// Its number.
        pid: i32,
        /// The file.
        file: &'static str,
        /// What was wrong.
        reason: String,
    },
}

/// Users and groups of a process, from `/proc/<pid>/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessStatus {
    /// Effective user.
    pub(crate) uid: u32,
    /// Effective group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// A running process that is proved to be the caller's.
#[derive(Debug)]
pub(crate) struct Process {
    caller: Caller,
    directory: OwnedFd,
    _permit: Option<Permit>,
}

impl Process {
    /// Opens the caller's `/proc` directory. [`Process::check_same`] checks whether it is still the same process.
    ///
    /// # Errors
    /// The caller has exited.
    pub(crate) fn open(caller: &Caller) -> Result<Self, ProcessError> {
        let pid = caller.pid;
        let directory = caller
            .process
            .directory()
            .map_err(|e| ProcessError::reading(pid, "", errno(&e)))?;
        let process = Self {
            caller: caller.clone(),
            directory,
            _permit: None,
        };
        process.check_running()?;
        Ok(process)
    }

    /// Keeps the permit until the last attestor is done with the process.
    pub(super) fn holding(self, permit: Permit) -> Self {
        Self {
            _permit: Some(permit),
            ..self
        }
    }

    /// The number of the process.
    #[must_use]
    pub(crate) const fn pid(&self) -> i32 {
        self.caller.pid
    }

    /// Checks that this is still the process that connected, with the same program and user.
    ///
    /// # Errors
    /// What has changed.
    pub(crate) fn check_same(&self) -> Result<(), ProcessError> {
        let pid = self.pid();
        let since = self.caller.process.mark().since(self.directory.as_fd());
        match since.map_err(|e| ProcessError::reading(pid, "stat", errno(&e)))? {
            Since::Same => {}
            Since::OtherProgram => return Err(ProcessError::ChangedProgram { pid }),
            Since::Ended => return Err(ProcessError::Ended { pid }),
        }
        let status = self.status()?;
        if (status.uid, status.gid) != (self.caller.uid, self.caller.gid) {
            return Err(ProcessError::ChangedUser {
                pid,
                was: format!("uid {} gid {}", self.caller.uid, self.caller.gid),
                is: format!("uid {} gid {}", status.uid, status.gid),
            });
        }
        self.check_running()
    }

    /// Users and groups now.
    ///
    /// # Errors
    /// The process has ended, or the kernel's text is not understood.
    pub(crate) fn status(&self) -> Result<ProcessStatus, ProcessError> {
        let text = self.read("status")?;
        parse_status(&text).ok_or_else(|| ProcessError::Unreadable {
            pid: self.pid(),
            file: "status",
            reason: "the lines Uid, Gid and Groups are missing".to_owned(),
        })
    }

    /// The path of the executable, as the kernel resolves it; for a removed file it ends with ` (deleted)`.
    ///
    /// # Errors
    /// The process has ended, or the node agent may not look (it needs the same user, or root).
    pub(crate) fn executable_path(&self) -> Result<PathBuf, ProcessError> {
        readlinkat(&self.directory, "exe")
            .map(PathBuf::from)
            .map_err(|errno| ProcessError::reading(self.pid(), "exe", errno))
    }

    /// The executable itself, opened through the process and not by its path.
    ///
    /// # Errors
    /// The process has ended, or the node agent may not look.
    pub(crate) fn executable(&self) -> Result<File, ProcessError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        openat(&self.directory, "exe", flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| ProcessError::reading(self.pid(), "exe", errno))
    }

    /// Until the process has ended, the directory is its own.
    fn check_running(&self) -> Result<(), ProcessError> {
        let pid = self.pid();
        let process = &self.caller.process;
        match process.is_running() {
            Ok(running) if running && process.pid() == pid => Ok(()),
            Ok(_) => Err(ProcessError::Ended { pid }),
            Err(e) => Err(ProcessError::reading(pid, "", errno(&e))),
        }
    }

    /// Its `/proc/<pid>` directory.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A file of its directory.
    pub(super) fn read(&self, file: &'static str) -> Result<String, ProcessError> {
        read_at(self.directory(), self.pid(), file)
    }
}

/// Reads a whole file of a `/proc` directory; a longer one is an error, since the missing part could matter.
pub(super) fn read_at(
    directory: BorrowedFd<'_>,
    pid: i32,
    file: &'static str,
) -> Result<String, ProcessError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let fd = openat(directory, file, flags, Mode::empty())
        .map_err(|errno| ProcessError::reading(pid, file, errno))?;
    // Without room at the start, many short reads find out how much there is.
    let mut bytes = Vec::with_capacity(limits::PROC_FILE_USUAL);
    let read = File::from(fd)
        .take(limits::PROC_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| ProcessError::reading(pid, file, errno(&e)))?;
    if u64::try_from(read).is_ok_and(|read| read > limits::PROC_FILE_BYTES) {
        return Err(ProcessError::Unreadable {
            pid,
            file,
            reason: format!("it has more than {} bytes", limits::PROC_FILE_BYTES),
        });
    }
    // A name that is not valid UTF-8 must not hide a process.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl ProcessError {
    /// What reading this file of a process's directory came to.
    pub(super) fn reading(pid: i32, file: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::ESRCH | Errno::ENOENT => Self::Ended { pid },
            other => Self::Unreadable {
                pid,
                file,
                reason: other.desc().to_owned(),
            },
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn parse_status(text: &str) -> Option<ProcessStatus> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::split_ascii_whitespace)
    };
    // Real, effective, saved, file system: the second is meant.
    let effective = |name: &str| field(name)?.nth(1)?.parse().ok();
    Some(ProcessStatus {
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        groups: field("Groups")?
            .map(|g| g.parse().ok())
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_are_taken_and_groups_may_be_none() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 20 \n";
        assert_eq!(
            parse_status(text),
            Some(ProcessStatus {
                uid: 2,
                gid: 6,
                groups: vec![10, 20]
            })
        );
        let none = "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n";
        assert_eq!(parse_status(none).map(|s| s.groups), Some(vec![]));
        assert_eq!(parse_status("Uid:\t1\t2\t3\t4\n"), None);
    }

    #[test]
    fn a_name_line_can_not_pass_for_another() {
        // The kernel escapes newlines in the name; even so only whole field names count.
        let text =
            "Name:\tUid:\t0\t0\nUidx:\t0\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n";
        assert_eq!(parse_status(text).map(|s| s.uid), Some(2));
    }
}
