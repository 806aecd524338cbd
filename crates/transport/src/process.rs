//! The process at the other end of a Unix socket, pinned from the moment it connected.
//!
//! The kernel reports who opened a connection, not who uses it later: the socket can be passed to another process, and
//! the process can exit or `execve` another program. So the state at connect time is stored with the connection, and
//! compared with the current state whenever the caller asks for something (decision 0020).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::limits;

/// Usual upper bound of the size of `/proc/<pid>/stat`, in bytes.
const STAT_USUAL: usize = 1024;

/// A process, pinned so that another one that reuses its PID can't pass for it.
#[derive(Debug)]
pub struct PeerProcess {
    pid: i32,
    hold: Hold,
    mark: ProcessMark,
}

/// How it is pinned. Neither way keeps the process alive; both refer to this process only, even after its PID is
/// reused.
#[derive(Debug)]
enum Hold {
    /// `SO_PEERPIDFD` (Linux 6.5): exactly the process that connected.
    Pidfd(OwnedFd),
    /// On older kernels: its `/proc/<pid>` directory, opened at accept. PID reuse between connect and accept goes
    /// unnoticed unless the new process has another UID.
    Directory(OwnedFd),
}

/// Distinguishes a process from a later one with the same PID, and its program from the one that replaced it by
/// `execve(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMark {
    started: u64,
    program: ProgramMark,
}

/// The addresses at which the kernel mapped the program: randomised anew at each `execve(2)`. Reading the executable's
/// metadata instead could block for ever, on a FUSE or network file system. Without permission to read them, the kernel
/// shows the same values for every process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProgramMark {
    code: (u64, u64),
    stack: u64,
}

/// The state of a process compared with an earlier [`ProcessMark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// It runs, with the same program.
    Same,
    /// It runs another program.
    OtherProgram,
    /// It ended.
    Ended,
}

impl PeerProcess {
    /// The process that has this PID now. The caller must make sure that it is the right one.
    ///
    /// # Errors
    /// There is no such process, or `/proc` does not show it.
    pub fn numbered(pid: i32) -> io::Result<Self> {
        let directory = open_directory(pid)?;
        let mark = ProcessMark::read(directory.as_fd())?;
        Ok(Self {
            pid,
            hold: Hold::Directory(directory),
            mark,
        })
    }

    /// The process of a pidfd, which must have this PID.
    ///
    /// # Errors
    /// It has another PID or has exited, or `/proc` does not show it.
    pub fn held(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        if pidfd_number(pidfd.as_fd())? != Some(pid) {
            return Err(io::Error::from(nix::errno::Errno::ESRCH));
        }
        let directory = open_directory(pid)?;
        let mark = ProcessMark::read(directory.as_fd())?;
        let this = Self {
            pid,
            hold: Hold::Pidfd(pidfd),
            mark,
        };
        // It has not exited, so its PID was not reused: the directory opened above is its own.
        if this.is_running()? {
            Ok(this)
        } else {
            Err(io::Error::from(nix::errno::Errno::ESRCH))
        }
    }

    /// Its PID.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Its state when this was made.
    #[must_use]
    pub const fn mark(&self) -> ProcessMark {
        self.mark
    }

    /// Its `/proc/<pid>` directory. Reads through it fail once the process has exited.
    ///
    /// # Errors
    /// It has exited, or `/proc` does not show it.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        match &self.hold {
            Hold::Directory(directory) => directory.try_clone(),
            Hold::Pidfd(_) => open_directory(self.pid),
        }
    }

    /// Whether it has not exited. Until then its PID is not reused.
    ///
    /// # Errors
    /// Neither the pidfd nor `/proc` could be read.
    pub fn is_running(&self) -> io::Result<bool> {
        match &self.hold {
            Hold::Directory(directory) => match ProcessMark::read(directory.as_fd()) {
                Ok(_) => Ok(true),
                Err(error) if is_gone(&error) => Ok(false),
                Err(error) => Err(error),
            },
            // A pidfd becomes readable when the process exits, before its parent reaps it: pidfd_open(2).
            Hold::Pidfd(pidfd) => {
                let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                Ok(poll(&mut ended, PollTimeout::ZERO)? == 0)
            }
        }
    }
}

impl ProcessMark {
    /// Reads the mark of the process from its `/proc/<pid>` directory.
    ///
    /// # Errors
    /// It has exited, or `stat` does not parse.
    pub fn read(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(directory, "stat", flags, Mode::empty())?;
        // `/proc` files report no size: without capacity up front, `read_to_end` would probe with many short reads.
        let mut text = Vec::with_capacity(STAT_USUAL);
        File::from(fd)
            .take(limits::PROC_STAT_BYTES)
            .read_to_end(&mut text)?;
        // The command's name may have any bytes.
        parse_stat(&String::from_utf8_lossy(&text))
    }

    /// Compares this mark with the current state of the process, given its `/proc/<pid>` directory.
    ///
    /// # Errors
    /// As [`ProcessMark::read`], except that an exited process is [`Since::Ended`].
    pub fn since(self, directory: BorrowedFd<'_>) -> io::Result<Since> {
        match Self::read(directory) {
            Ok(now) if now.started != self.started => Ok(Since::Ended),
            Ok(now) if now.program != self.program => Ok(Since::OtherProgram),
            Ok(_) => Ok(Since::Same),
            Err(error) if is_gone(&error) => Ok(Since::Ended),
            Err(error) => Err(error),
        }
    }
}

fn open_directory(pid: i32) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(openat(
        AT_FDCWD,
        format!("/proc/{pid}").as_str(),
        flags,
        Mode::empty(),
    )?)
}

fn is_gone(error: &io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::ESRCH, Errno::ENOENT]
        .into_iter()
        .any(|gone| error.raw_os_error() == Some(gone as i32))
}

/// The PID of a pidfd's process in this PID namespace: `None` once it has exited, 0 if it is not visible from here.
fn pidfd_number(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let note = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    Ok(noted_number(&note).filter(|number| *number >= 0))
}

/// The field `Pid:` of a pidfd's `fdinfo`: -1 once the process has exited.
fn noted_number(note: &str) -> Option<i32> {
    note.lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()
}

/// Fields 22 and 26 to 28 of `/proc/<pid>/stat`: start time, start and end of the code, start of the stack. A process
/// that has exited but was not reaped yet (a zombie) counts as gone.
fn parse_stat(text: &str) -> io::Result<ProcessMark> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "the start time is missing");
    // The command, field 2, stands in parentheses and may have any character in it.
    let (_, after_command) = text.rsplit_once(')').ok_or_else(strange)?;
    let fields: Vec<&str> = after_command.split_ascii_whitespace().collect();
    // What follows the command begins with field 3.
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|field| field.parse().ok())
            .ok_or_else(strange)
    };
    if matches!(fields.first(), Some(&("Z" | "X" | "x"))) {
        return Err(nix::errno::Errno::ESRCH.into());
    }
    Ok(ProcessMark {
        started: field(22)?,
        program: ProgramMark {
            code: (field(26)?, field(27)?),
            stack: field(28)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str =
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21 0 4096 22 8192 23";

    #[test]
    fn start_and_program_are_found_behind_any_command_name() {
        let found = parse_stat(&format!("7 (a) b) (c) S {REST}"));
        let program = ProgramMark {
            code: (4096, 22),
            stack: 8192,
        };
        let started = 424_242;
        assert_eq!(found.unwrap(), ProcessMark { started, program });
        assert!(parse_stat("7 (short) S 1 2").is_err());
        assert!(parse_stat("").is_err());
    }

    #[test]
    fn an_ended_process_that_waits_for_its_parent_is_gone() {
        assert!(is_gone(
            &parse_stat(&format!("7 (a) Z {REST}")).unwrap_err()
        ));
    }

    #[test]
    fn a_pidfd_note_is_understood() {
        assert_eq!(
            noted_number("pos:\t0\nflags:\t02\nPid:\t42\nNSpid:\t42\n"),
            Some(42)
        );
        assert_eq!(noted_number("Pid:\t-1\n"), Some(-1));
        assert_eq!(noted_number("pos:\t0\n"), None);
    }
}
