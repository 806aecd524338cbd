//! The restrictions of each thread, from `/proc`, and those that hold for all threads.
//!
//! Almost all of the kernel's restrictions are per thread, not per process. Threads start and exit while they are read,
//! so an unconfined one could be missed by exiting and starting again in time. Therefore each thread is pinned by its
//! `/proc` directory, and the listing is repeated after all have been read: it must be the same, with every thread
//! still alive. A new thread appears at the end of the listing and inherits its creator's restrictions, and none of the
//! restrictions read here can be lifted. So if both listings agree, no thread was missed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::super::process::{Process, ProcessError, read_at};
use super::super::{AttestorError, Deadline};
use super::capability::Capability;
use crate::limits;

/// The threads that are read together.
pub(super) enum ThreadGroup<'a> {
    /// The threads of the caller.
    Threads(&'a Process),
    /// All threads of all processes in a cgroup, given by its folder.
    Cgroup(&'a Path),
}

/// What holds for every thread of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// All have `no_new_privs`: none can gain privileges by `execve`.
    pub(super) no_new_privs: bool,
    pub(super) seccomp: Seccomp,
    /// Union of the capabilities in the effective, permitted, inheritable and ambient sets of all threads.
    has: u64,
    /// Union of the capabilities that a thread could gain by `execve` of a set-user-ID program or a file with
    /// capabilities: its bounding set, unless it has `no_new_privs`.
    gains: u64,
    /// The root directory of each is on a read-only mount.
    pub(super) read_only_root: bool,
    /// The user namespace that all are in; `None` if they differ, or it can't be read.
    user_namespace: Option<String>,
    /// Its `uid_map`; every user if the threads are in different user namespaces.
    uid_map: Vec<Range>,
    uids: Vec<u32>,
    /// The lines of `cgroup`, if they are the same for all.
    cgroups: Option<String>,
    /// Whether one of them sees a writable mount of a cgroup file system.
    sees_writable_cgroups: bool,
}

/// A range of UIDs outside a user namespace that are mapped into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    outside: u32,
    count: u32,
}

/// From least to most restrictive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seccomp {
    Off,
    Filter,
    Strict,
}

impl Facts {
    /// The cgroups that all are in, as lines of `/proc/<pid>/cgroup`.
    pub(super) fn cgroups(&self) -> Option<&str> {
        self.cgroups.as_deref()
    }

    /// The capabilities that any of them has, or could gain by itself.
    pub(super) const fn capabilities(&self) -> u64 {
        self.has | self.gains
    }

    /// Whether all are in the same user namespace, and it is not the node agent's.
    pub(super) fn has_own_user_namespace(&self) -> bool {
        let node_agents = this_user_namespace();
        self.user_namespace
            .as_ref()
            .zip(node_agents.as_ref())
            .is_some_and(|(own, node_agents)| own != node_agents)
    }

    /// Whether no UID of the namespace maps to UID 0 outside.
    pub(super) fn is_without_root(&self) -> bool {
        !self.uid_map.is_empty() && !self.uid_map.iter().any(|range| range.has(0))
    }

    /// Whether one of them could write to a cgroup's file that is owned by this user.
    pub(super) fn may_change_cgroup_of(&self, owner: u32) -> bool {
        let is_mapped = self.uid_map.iter().any(|range| range.has(owner));
        let overrides = self.any_has(&[
            Capability::CHOWN,
            Capability::DAC_OVERRIDE,
            Capability::FOWNER,
            Capability::SETUID,
        ]);
        let is_or_becomes = self.uids.contains(&owner) || (overrides && is_mapped);
        match self.can_escape() {
            true => is_or_becomes || is_mapped,
            false => self.sees_writable_cgroups && is_or_becomes,
        }
    }

    /// Whether one of them has, or can gain, a capability that is equivalent to full root.
    pub(super) fn can_escape(&self) -> bool {
        self.any_has(&Capability::ESCAPES)
    }

    fn any_has(&self, capabilities: &[Capability]) -> bool {
        let all = self.capabilities();
        capabilities.iter().any(|capability| capability.is_in(all))
    }

    fn and(self, other: Self) -> Self {
        let same_namespace = self.user_namespace == other.user_namespace;
        let mut uids = self.uids;
        uids.extend(other.uids);
        uids.sort_unstable();
        uids.dedup();
        Self {
            no_new_privs: self.no_new_privs && other.no_new_privs,
            seccomp: self.seccomp.min(other.seccomp),
            has: self.has | other.has,
            gains: self.gains | other.gains,
            read_only_root: self.read_only_root && other.read_only_root,
            user_namespace: self.user_namespace.filter(|_| same_namespace),
            uid_map: if same_namespace {
                self.uid_map
            } else {
                vec![Range::EVERYBODY]
            },
            uids,
            cgroups: self
                .cgroups
                .filter(|own| Some(own) == other.cgroups.as_ref()),
            sees_writable_cgroups: self.sees_writable_cgroups || other.sees_writable_cgroups,
        }
    }

    fn of(task: &Task, seen: &mut WritableCgroups) -> Result<Self, ProcessError> {
        let status = task.read("status")?;
        let status = Status::parse(&status).ok_or_else(|| {
            let reason = "the lines Uid and CapEff are missing";
            task.unreadable("status", reason)
        })?;
        // Readable only with ptrace access (PTRACE_MODE_READ) to the thread; without it the namespace does not count.
        let user_namespace = readlinkat(&task.directory, "ns/user").ok();
        let user_namespace = user_namespace.and_then(|link| link.into_string().ok());
        let uid_map = task.read("uid_map").ok().and_then(|map| parse_map(&map));
        Ok(Self {
            no_new_privs: status.no_new_privs,
            seccomp: status.seccomp,
            has: status.has,
            gains: if status.no_new_privs {
                0
            } else {
                status.bounding
            },
            read_only_root: task.has_read_only_root(),
            user_namespace,
            uid_map: uid_map.unwrap_or_else(|| vec![Range::EVERYBODY]),
            uids: status.uids,
            cgroups: task.read("cgroup").ok(),
            sees_writable_cgroups: task.sees_writable_cgroups(seen),
        })
    }
}

impl Range {
    const EVERYBODY: Self = Self {
        outside: 0,
        count: u32::MAX,
    };

    const fn has(self, uid: u32) -> bool {
        uid >= self.outside && uid - self.outside < self.count
    }
}

/// Reads what holds for every thread of a group.
///
/// # Errors
/// There are too many threads, the listing did not become stable, or a thread can't be read.
pub(super) fn facts_of_group(
    group: &ThreadGroup<'_>,
    deadline: &Deadline,
) -> Result<Facts, AttestorError> {
    for _ in 0..limits::THREAD_LISTINGS {
        if deadline.has_passed() {
            break;
        }
        if let Some(facts) = try_all(group)? {
            return Ok(facts);
        }
    }
    Err(AttestorError::ThreadsChanging)
}

/// One attempt; `None` if the group changed meanwhile.
fn try_all(group: &ThreadGroup<'_>) -> Result<Option<Facts>, AttestorError> {
    let mut tasks = BTreeMap::new();
    for number in group.list()? {
        if let Some(task) = ended(group.open(number))? {
            tasks.insert(number, task);
        }
    }
    let Some(facts) = facts_of(tasks.values())? else {
        return Ok(None);
    };
    let again = group.list()?;
    if !again.iter().eq(tasks.keys()) {
        return Ok(None);
    }
    // Read again, which fails for a thread that has exited. All are alive, so no number in the second listing is a
    // reused one.
    Ok(facts_of(tasks.values())?.map(|now| now.and(facts)))
}

fn facts_of<'a>(tasks: impl Iterator<Item = &'a Task>) -> Result<Option<Facts>, AttestorError> {
    let mut all: Option<Facts> = None;
    let mut seen = WritableCgroups::new();
    for task in tasks {
        let Some(facts) = ended(Facts::of(task, &mut seen))? else {
            return Ok(None);
        };
        all = Some(match all {
            Some(before) => before.and(facts),
            None => facts,
        });
    }
    Ok(all)
}

/// A thread that has exited is `None`, not an error.
fn ended<T>(looked: Result<T, ProcessError>) -> Result<Option<T>, ProcessError> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(ProcessError::Ended { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl ThreadGroup<'_> {
    /// Their thread IDs, sorted.
    fn list(&self) -> Result<Vec<i32>, AttestorError> {
        let mut numbers = match self {
            Self::Threads(process) => threads(process)?,
            Self::Cgroup(folder) => members(folder)?,
        };
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() > limits::THREADS {
            return Err(AttestorError::TooManyThreads(numbers.len()));
        }
        Ok(numbers)
    }

    fn open(&self, number: i32) -> Result<Task, ProcessError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = match self {
            Self::Threads(process) => openat(
                process.directory(),
                format!("task/{number}").as_str(),
                flags,
                Mode::empty(),
            ),
            Self::Cgroup(_) => openat(
                AT_FDCWD,
                format!("/proc/{number}").as_str(),
                flags,
                Mode::empty(),
            ),
        };
        let directory = opened.map_err(|errno| ProcessError::reading(number, "task", errno))?;
        Ok(Task { number, directory })
    }
}

fn threads(process: &Process) -> Result<Vec<i32>, ProcessError> {
    let unreadable = |errno| ProcessError::reading(process.pid(), "task", errno);
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut listing =
        Dir::openat(process.directory(), "task", flags, Mode::empty()).map_err(unreadable)?;
    let mut numbers = Vec::new();
    for entry in listing.iter().take(limits::THREADS + 3) {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_str().ok();
        numbers.extend(name.and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(numbers)
}

/// The threads of a cgroup and its descendants.
fn members(folder: &Path) -> Result<Vec<i32>, AttestorError> {
    let mut numbers = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        seen += 1;
        if seen > limits::CGROUPS_BELOW || numbers.len() > limits::THREADS {
            return Err(AttestorError::TooManyThreads(numbers.len()));
        }
        let text = ["cgroup.threads", "tasks"]
            .into_iter()
            .find_map(|name| super::kernel_file::read(&folder.join(name)))
            .ok_or(AttestorError::ThreadsChanging)?;
        for line in text.lines() {
            // 0 stands for a thread that is not visible in this PID namespace.
            let number = line.parse().ok().filter(|number| *number > 0);
            numbers.push(number.ok_or(AttestorError::ThreadsChanging)?);
        }
        let below = std::fs::read_dir(&folder).map_err(|_| AttestorError::ThreadsChanging)?;
        for entry in below {
            let entry = entry.map_err(|_| AttestorError::ThreadsChanging)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Ok(numbers)
}

/// Whether a writable cgroup file system is visible, by mount namespace and root.
type WritableCgroups = HashMap<(OsString, OsString), bool>;

/// A thread, pinned by its `/proc` directory.
struct Task {
    number: i32,
    directory: OwnedFd,
}

impl Task {
    fn read(&self, file: &'static str) -> Result<String, ProcessError> {
        read_at(self.directory.as_fd(), self.number, file)
    }

    fn unreadable(&self, file: &'static str, reason: &str) -> ProcessError {
        ProcessError::Unreadable {
            pid: self.number,
            file,
            reason: reason.to_owned(),
        }
    }

    /// Cached by mount namespace and root: most threads share them, and the list of mounts may be long.
    fn sees_writable_cgroups(&self, seen: &mut WritableCgroups) -> bool {
        let link = |name: &str| readlinkat(&self.directory, name);
        let (Ok(namespace), Ok(root)) = (link("ns/mnt"), link("root")) else {
            return true;
        };
        *seen.entry((namespace, root)).or_insert_with(|| {
            self.read("mountinfo")
                .map_or(true, |mounts| has_writable_cgroups(&mounts))
        })
    }

    /// Asks the root directory itself for its mount: `mountinfo` may list another mount stacked on top at `/`.
    fn has_read_only_root(&self) -> bool {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.directory, "root", flags, Mode::empty())
            .and_then(|root| is_read_only(root.as_fd()))
            .unwrap_or(false)
    }
}

fn is_read_only(directory: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(fstatvfs(directory)?.flags().contains(FsFlags::ST_RDONLY))
}

fn this_user_namespace() -> Option<String> {
    readlinkat(AT_FDCWD, "/proc/self/ns/user")
        .ok()?
        .into_string()
        .ok()
}

/// Lines of `/proc/<pid>/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    uids: Vec<u32>,
    no_new_privs: bool,
    seccomp: Seccomp,
    has: u64,
    bounding: u64,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        let uids: Vec<u32> = field("Uid")?
            .split_ascii_whitespace()
            .map(|uid| uid.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            uids,
            no_new_privs: field("NoNewPrivs") == Some("1"),
            seccomp: match field("Seccomp") {
                Some("1") => Seccomp::Strict,
                Some("2") => Seccomp::Filter,
                _ => Seccomp::Off,
            },
            // Kernels before 4.3 have no ambient capabilities.
            has: set("CapInh")? | set("CapPrm")? | set("CapEff")? | set("CapAmb").unwrap_or(0),
            bounding: set("CapBnd")?,
        })
    }
}

/// Lines of `uid_map`: first UID inside, first UID outside, count (user_namespaces(7)).
fn parse_map(text: &str) -> Option<Vec<Range>> {
    text.lines()
        .map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(|n| n.parse().ok());
            let (_, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            let _: u32 = outside;
            Some(Range { outside, count })
        })
        .collect()
}

/// Whether `mountinfo` has a cgroup file system that is not mounted read-only.
fn has_writable_cgroups(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            return true;
        };
        let is_cgroup = filesystem.starts_with("cgroup ") || filesystem.starts_with("cgroup2 ");
        let options = mount.split(' ').nth(5).unwrap_or_default();
        is_cgroup && !options.split(',').any(|option| option == "ro")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1\t2\t3\t4\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\n\
        CapEff:\t0000000000000004\nCapBnd:\t00000000000000ff\nCapAmb:\t0000000000000008\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn the_lines_of_a_status_are_understood() {
        let status = Status::parse(STATUS).unwrap();
        let want = Status {
            uids: vec![1, 2, 3, 4],
            no_new_privs: true,
            seccomp: Seccomp::Filter,
            has: 15,
            bounding: 255,
        };
        assert_eq!(status, want);
        // What an old kernel leaves out does not confine.
        let old = STATUS.replace("NoNewPrivs:\t1\nSeccomp:\t2\n", "");
        let status = Status::parse(&old).unwrap();
        assert!(!status.no_new_privs && status.seccomp == Seccomp::Off);
        assert_eq!(Status::parse(&STATUS.replace("CapEff", "Cap")), None);
    }

    #[test]
    fn users_outside_are_those_of_the_map() {
        let map = parse_map("         0     100000      65536\n     65536          7          1\n")
            .unwrap();
        let has = |uid| map.iter().any(|range| range.has(uid));
        assert!(has(100_000) && has(165_535) && has(7));
        assert!(!has(0) && !has(99_999) && !has(165_536) && !has(8));
        assert_eq!(parse_map("0 x 1"), None);
        assert!(Range::EVERYBODY.has(0) && Range::EVERYBODY.has(u32::MAX - 1));
    }

    #[test]
    fn a_writable_mount_of_cgroups_is_seen_among_others() {
        let read_only = "99 98 0:37 /a /sys/fs/cgroup/systemd ro,nosuid - cgroup cgroup rw,name=systemd\n\
            86 64 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        assert!(!has_writable_cgroups(read_only));
        let writable = format!("{read_only}1 2 0:3 / /c rw shared:4 - cgroup2 cgroup2 rw\n");
        assert!(has_writable_cgroups(&writable));
        assert!(has_writable_cgroups("strange"));
    }
}
