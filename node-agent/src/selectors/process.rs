//! One process, held so that a reused PID can't stand in for it.
//!
//! The order of things is what makes it safe. The kernel tells with the socket who connected: PID, UID, GID, and a pidfd
//! that means this very process for ever. `/proc/<pid>` is opened once as a directory; after that, the pidfd must still
//! name the same PID. While it does, the PID was not given away, so the directory is the caller's. All reads go through
//! this directory, which yields errors, never another process, once its process is gone.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use countersign_runtime::UnixCaller;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;

use crate::limits;

/// What the kernel says about the other end of a Unix socket, at the time it connected.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process, in the node agent's PID namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The process itself; its number can't be reused as long as this names it.
    pub handle: Handle,
}

/// How firmly the kernel binds a connection to its process.
#[derive(Clone, Debug)]
pub enum Handle {
    /// `SO_PEERPIDFD` (Linux 6.5): names the process that connected, and no other, for ever.
    Pidfd(Arc<OwnedFd>),
    /// An older kernel: all that is known is the number. The directory below `/proc` and the start time guard the time
    /// of the attestation, and the user that of the connection; a PID reused by the same user before that goes unseen.
    NumberOnly,
}

impl Caller {
    /// What the kernel said when the connection was accepted.
    ///
    /// # Errors
    /// The process is not visible from here, or had ended before it was accepted.
    pub fn of(caller: &UnixCaller) -> Result<Self, ProcessError> {
        let pid = caller
            .pid
            .filter(|pid| *pid > 0)
            .ok_or(ProcessError::Invisible)?;
        let handle = match &caller.pidfd {
            Some(pidfd) => Handle::Pidfd(Arc::clone(pidfd)),
            // The kernel gives no pidfd for a process that is gone: then its number proves nothing.
            None if kernel_has_peer_pidfd() => return Err(ProcessError::Ended { pid }),
            None => Handle::NumberOnly,
        };
        Ok(Self {
            pid,
            uid: caller.uid,
            gid: caller.gid,
            handle,
        })
    }
}

impl Caller {
    /// The process that has this number now. Whoever names it answers for its being the right one.
    ///
    /// # Errors
    /// There is none, or it can't be looked at.
    pub fn numbered(pid: i32) -> Result<Self, ProcessError> {
        if pid <= 0 {
            return Err(ProcessError::Invisible);
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|_| ProcessError::Ended { pid })?;
        let status = parse_status(&text).ok_or(ProcessError::Ended { pid })?;
        Ok(Self {
            pid,
            uid: status.uid,
            gid: status.gid,
            handle: Handle::NumberOnly,
        })
    }
}

fn kernel_has_peer_pidfd() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        UnixStream::pair().is_ok_and(|(one, _other)| getsockopt(&one, sockopt::PeerPidfd).is_ok())
    })
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
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
    /// Something below `/proc/<pid>` could not be read.
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
pub struct ProcessStatus {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A running process that is proved to be the caller's.
#[derive(Debug)]
pub struct Process {
    caller: Caller,
    directory: OwnedFd,
    started: u64,
}

impl Process {
    /// Binds the caller to its directory below `/proc`.
    ///
    /// # Errors
    /// The caller has ended, is invisible, or is another user than when it connected.
    pub fn open(caller: &Caller) -> Result<Self, ProcessError> {
        let pid = caller.pid;
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let path = format!("/proc/{pid}");
        let directory = openat(AT_FDCWD, path.as_str(), flags, Mode::empty())
            .map_err(|errno| gone_or(pid, "", errno))?;
        let mut process = Self {
            caller: caller.clone(),
            directory,
            started: 0,
        };
        process.check_pidfd()?;
        process.started = process.start_time()?;
        process.check_same()?;
        Ok(process)
    }

    /// The number of the process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.caller.pid
    }

    /// Checks that this is still the process that connected, as the user that it was.
    ///
    /// # Errors
    /// What is not the same any more.
    pub fn check_same(&self) -> Result<(), ProcessError> {
        if self.start_time()? != self.started {
            return Err(ProcessError::Ended { pid: self.pid() });
        }
        let status = self.status()?;
        if (status.uid, status.gid) != (self.caller.uid, self.caller.gid) {
            return Err(ProcessError::ChangedUser {
                pid: self.pid(),
                was: format!("uid {} gid {}", self.caller.uid, self.caller.gid),
                is: format!("uid {} gid {}", status.uid, status.gid),
            });
        }
        self.check_pidfd()
    }

    /// Users and groups now.
    ///
    /// # Errors
    /// The process has ended, or the kernel's text is not understood.
    pub fn status(&self) -> Result<ProcessStatus, ProcessError> {
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
    pub fn executable_path(&self) -> Result<PathBuf, ProcessError> {
        readlinkat(&self.directory, "exe")
            .map(PathBuf::from)
            .map_err(|errno| gone_or(self.pid(), "exe", errno))
    }

    /// The executable itself, opened through the process and not by its path.
    ///
    /// # Errors
    /// The process has ended, or the node agent may not look.
    pub fn executable(&self) -> Result<File, ProcessError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        openat(&self.directory, "exe", flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| gone_or(self.pid(), "exe", errno))
    }

    /// Clock ticks between boot and the start of the process.
    fn start_time(&self) -> Result<u64, ProcessError> {
        let text = self.read("stat")?;
        parse_start_time(&text).ok_or_else(|| ProcessError::Unreadable {
            pid: self.pid(),
            file: "stat",
            reason: "the start time is missing".to_owned(),
        })
    }

    /// The kernel's note about a pidfd names the process's PID as long as it exists, and -1 afterwards.
    fn check_pidfd(&self) -> Result<(), ProcessError> {
        let Handle::Pidfd(pidfd) = &self.caller.handle else {
            return Ok(());
        };
        let number = pidfd.as_raw_fd();
        let path = format!("/proc/self/fdinfo/{number}");
        let text = std::fs::read_to_string(path).map_err(|e| ProcessError::Unreadable {
            pid: self.pid(),
            file: "(its pidfd)",
            reason: e.to_string(),
        })?;
        match pidfd_pid(&text) {
            Some(pid) if pid == self.pid() => Ok(()),
            Some(0) => Err(ProcessError::Invisible),
            _ => Err(ProcessError::Ended { pid: self.pid() }),
        }
    }

    fn read(&self, file: &'static str) -> Result<String, ProcessError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.directory, file, flags, Mode::empty())
            .map_err(|errno| gone_or(self.pid(), file, errno))?;
        // A name that is not valid UTF-8 (the command in `stat`) must not hide a process.
        let mut bytes = Vec::new();
        File::from(fd)
            .take(limits::PROC_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| gone_or(self.pid(), file, Errno::try_from(e).unwrap_or(Errno::EIO)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn gone_or(pid: i32, file: &'static str, errno: Errno) -> ProcessError {
    match errno {
        Errno::ESRCH | Errno::ENOENT => ProcessError::Ended { pid },
        other => ProcessError::Unreadable {
            pid,
            file,
            reason: other.desc().to_owned(),
        },
    }
}

/// `Pid:` of `/proc/self/fdinfo/<pidfd>`.
fn pidfd_pid(text: &str) -> Option<i32> {
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()
}

/// Field 22 of `/proc/<pid>/stat`. The command, field 2, stands in parentheses and may have any character in it.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    // What follows the command begins with field 3.
    after_command
        .split_ascii_whitespace()
        .nth(22 - 3)?
        .parse()
        .ok()
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
    fn the_start_time_is_found_behind_any_command_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20";
        assert_eq!(
            parse_start_time(&format!("7 (a) b) (c) {rest}")),
            Some(424_242)
        );
        assert_eq!(parse_start_time("7 (short) S 1 2"), None);
    }

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

    #[test]
    fn a_pidfd_note_is_understood() {
        assert_eq!(
            pidfd_pid("pos:\t0\nflags:\t02\nPid:\t42\nNSpid:\t42\n"),
            Some(42)
        );
        assert_eq!(pidfd_pid("Pid:\t-1\n"), Some(-1));
        assert_eq!(pidfd_pid("pos:\t0\n"), None);
    }
}
