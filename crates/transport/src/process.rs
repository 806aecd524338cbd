//! The process at the other end of a Unix socket, held from its connect on.
//!
//! A connection says who opened it, and not who uses it later: it can be passed on, and the process can end or become
//! another program. So what was there at the connect is kept beside the connection, to be held against what is there
//! when something is asked for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::limits;

/// What the `stat` of a process has at most as a rule, in bytes.
const STAT_USUAL: usize = 1024;

/// A process, held so that another one that gets its number can't pass for it.
#[derive(Debug)]
pub struct PeerProcess {
    pid: i32,
    hold: Hold,
    mark: ProcessMark,
}

/// By what it is held. Neither keeps the process alive; both mean this process alone for ever.
#[derive(Debug)]
enum Hold {
    /// `SO_PEERPIDFD` (Linux 6.5): the very process that connected.
    Pidfd(OwnedFd),
    /// An older kernel: its directory below `/proc`, opened when the connection was accepted. A number that changed hands
    /// between connect and accept goes unseen unless the user is another.
    Directory(OwnedFd),
}

/// What tells a process from the next one of its number, and a program from the one that it was replaced by with
/// `execve(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMark {
    started: u64,
    program: ProgramMark,
}

/// Where the kernel happened to put the program in memory; it is another place for each `execve(2)`. Asking for its file
/// instead could take for ever, on a file system that somebody else serves. Who may not look sees the same of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProgramMark {
    code: (u64, u64),
    stack: u64,
}

/// What became of a process since its mark was taken.
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
    /// The process that has this number now. Whoever names it answers for its being the right one.
    ///
    /// # Errors
    /// There is none, or it can't be looked at.
    pub fn numbered(pid: i32) -> io::Result<Self> {
        let directory = open_directory(pid)?;
        let mark = ProcessMark::read(directory.as_fd())?;
        Ok(Self {
            pid,
            hold: Hold::Directory(directory),
            mark,
        })
    }

    /// The process that a pidfd means, which has this number.
    ///
    /// # Errors
    /// It has another number or has ended, or can't be looked at.
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
        // It still has its number: the directory was its own.
        if this.is_running()? {
            Ok(this)
        } else {
            Err(io::Error::from(nix::errno::Errno::ESRCH))
        }
    }

    /// Its number when it was marked.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// What it was when it was marked.
    #[must_use]
    pub const fn mark(&self) -> ProcessMark {
        self.mark
    }

    /// Its directory below `/proc`. What is read through it fails once the process has ended.
    ///
    /// # Errors
    /// It has ended, or can't be looked at.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        match &self.hold {
            Hold::Directory(directory) => directory.try_clone(),
            Hold::Pidfd(_) => open_directory(self.pid),
        }
    }

    /// Whether it has not ended. Until then its number is not given to another process.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_running(&self) -> io::Result<bool> {
        match &self.hold {
            Hold::Directory(directory) => match ProcessMark::read(directory.as_fd()) {
                Ok(_) => Ok(true),
                Err(error) if is_gone(&error) => Ok(false),
                Err(error) => Err(error),
            },
            // It becomes readable at the end of the process, before anybody was told of it: pidfd_open(2).
            Hold::Pidfd(pidfd) => {
                let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                Ok(poll(&mut ended, PollTimeout::ZERO)? == 0)
            }
        }
    }
}

impl ProcessMark {
    /// The mark of the process whose directory below `/proc` this is.
    ///
    /// # Errors
    /// It has ended, or the kernel's text is not understood.
    pub fn read(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(directory, "stat", flags, Mode::empty())?;
        // Without room at the start, many short reads find out how much there is.
        let mut text = Vec::with_capacity(STAT_USUAL);
        File::from(fd)
            .take(limits::PROC_STAT_BYTES)
            .read_to_end(&mut text)?;
        // The command may have any bytes in its name.
        parse_stat(&String::from_utf8_lossy(&text))
    }

    /// What became of the process since this mark, if its directory is this one.
    ///
    /// # Errors
    /// As [`ProcessMark::read`], except that the end of the process is an answer.
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

/// The number that `/proc` knows the process of a pidfd by: none after its end, 0 if it can't be seen from here.
fn pidfd_number(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let note = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    Ok(noted_number(&note).filter(|number| *number >= 0))
}

/// `Pid:` of what is noted of a pidfd: -1 once the process has ended.
fn noted_number(note: &str) -> Option<i32> {
    note.lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()
}

/// Fields 22 and 26 to 28 of `/proc/<pid>/stat`: start time, start and end of the code, start of the stack. A process that
/// has ended and waits for its parent is gone.
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
