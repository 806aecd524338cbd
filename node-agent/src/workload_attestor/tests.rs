//! Selectors of real child processes, over real sockets.
//!
//! The children are this test binary again, started through hard links, in the role of [`child_that_connects`].

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use countersign_transport::UnixCaller;
use countersign_transport::process::PeerProcess;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::*;

pub(super) const SOCKET: &str = "COUNTERSIGN_TEST_SOCKET";
/// The arguments that make this test binary a child that connects.
pub(super) const CHILD: [&str; 2] = ["--exact", "workload_attestor::tests::child_that_connects"];

/// Not a test of its own: what a child process does. It connects, and stays until the other side closes.
#[test]
fn child_that_connects() {
    let Some(path) = std::env::var_os(SOCKET) else {
        return;
    };
    let mut stream = UnixStream::connect(path).unwrap();
    let _ = stream.read(&mut [0]);
}

/// A process that has connected to us.
pub(super) struct Connected {
    child: Child,
    stream: UnixStream,
    pub(super) caller: Caller,
}

impl Connected {
    fn start(directory: &Path, executable: &Path) -> Self {
        Self::run(directory, Command::new(executable).args(CHILD))
    }

    /// A command that comes to connect to the socket that its environment names, be it as [`CHILD`].
    pub(super) fn run(directory: &Path, command: &mut Command) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        static CHILDREN: AtomicU32 = AtomicU32::new(0);
        let number = CHILDREN.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("s{number}"));
        let listener = UnixListener::bind(&path).unwrap();
        // It may be another user's process.
        for (path, mode) in [(directory, 0o755), (&path, 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let child = command
            .env(SOCKET, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Should it end without having connected, the test ends too.
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let instead = path.clone();
        std::thread::spawn(move || {
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let _ = UnixStream::connect(instead);
        });
        let (stream, _) = listener.accept().unwrap();
        let caller = caller_of(&stream);
        assert_ne!(
            u32::try_from(caller.pid),
            Ok(std::process::id()),
            "{command:?} has not connected"
        );
        Self {
            child,
            stream,
            caller,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn end(mut self) -> Caller {
        // It may have ended already.
        let _ = self.stream.write_all(b"x");
        drop(self.stream);
        self.child.wait().unwrap();
        self.caller
    }
}

fn caller_of(stream: &UnixStream) -> Caller {
    let who = getsockopt(stream, sockopt::PeerCredentials).unwrap();
    let pidfd: OwnedFd = getsockopt(stream, sockopt::PeerPidfd).unwrap();
    Caller::of(&UnixCaller {
        pid: Some(who.pid()),
        uid: who.uid(),
        gid: who.gid(),
        process: Some(Arc::new(PeerProcess::held(who.pid(), pidfd).unwrap())),
    })
    .unwrap()
}

/// What is known of the same caller where the kernel has no `SO_PEERPIDFD`.
fn on_an_older_kernel(caller: &Caller) -> Caller {
    Caller {
        process: Arc::new(PeerProcess::numbered(caller.pid).unwrap()),
        ..caller.clone()
    }
}

/// The test binary's content under two names, so that they differ by `unix:path` only. A file of their own: other tests
/// make links to the test binary, and to a file that is read that is a change.
fn two_names(directory: &Path, names: [&str; 2]) -> [PathBuf; 2] {
    let [one, two] = names.map(|name| directory.join(name));
    let own = std::env::current_exe().unwrap();
    // By a process of its own: a program that anybody has open for writing, be it a child of this process that is only
    // about to be one, can't be started.
    let copied = Command::new("cp").arg(own).arg(&one).status().unwrap();
    assert!(copied.success());
    std::fs::hard_link(&one, &two).unwrap();
    [one, two].map(|path| path.canonicalize().unwrap())
}

fn unix(digest: Digest) -> Attestors {
    Attestors::new(vec![Arc::new(Unix::new(Discover::Executable(digest)))])
}

pub(super) fn has(selectors: &SelectorSet, text: &str) -> bool {
    selectors.contains(&Selector::parse(text).unwrap())
}

#[tokio::test]
async fn processes_of_one_user_differ_by_their_path() {
    let directory = tempfile::tempdir().unwrap();
    let [coder, reviewer] = two_names(directory.path(), ["coder", "reviewer"]);
    let attestors = unix(Digest::AnySize);
    let mut seen = Vec::new();
    for executable in [&coder, &reviewer] {
        let child = Connected::start(directory.path(), executable);
        let selectors = attestors.attest(child.caller.clone()).await.unwrap();
        assert!(
            has(&selectors, &format!("unix:uid:{}", nix::unistd::geteuid())),
            "{selectors:?}"
        );
        assert!(
            has(&selectors, &format!("unix:gid:{}", nix::unistd::getegid())),
            "{selectors:?}"
        );
        assert!(
            has(&selectors, &format!("unix:path:{}", executable.display())),
            "{selectors:?}"
        );
        seen.push(selectors);
        child.end();
    }
    let digest = |s: &SelectorSet| s.iter().find(|s| s.value().starts_with("sha256:")).cloned();
    assert_eq!(
        digest(&seen[0]),
        digest(&seen[1]),
        "the same content under two names"
    );
    assert!(digest(&seen[0]).is_some());
    assert!(!has(&seen[0], &format!("unix:path:{}", reviewer.display())));
}

#[tokio::test]
async fn names_of_user_and_groups_come_from_the_system() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let attestors = Attestors::new(vec![Arc::new(Unix::new(Discover::UsersOnly))]);
    let selectors = attestors.attest(child.caller.clone()).await.unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    if let Some(user) = user {
        assert!(has(&selectors, &format!("unix:user:{}", user.name)));
    }
    for group in nix::unistd::getgroups().unwrap() {
        assert!(has(&selectors, &format!("unix:supplementary_gid:{group}")));
    }
    assert!(
        !selectors.iter().any(|s| s.value().starts_with("path:")),
        "not asked for"
    );
    child.end();
}

#[tokio::test]
async fn an_executable_over_the_limit_fails_the_attestation() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let error = unix(Digest::UpTo(10))
        .attest(child.caller.clone())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("workload_size_limit (10)"),
        "{error}"
    );
    // Another attestor that succeeds makes up for it.
    let both: Vec<Arc<dyn WorkloadAttestor>> = vec![
        Arc::new(Unix::new(Discover::Executable(Digest::UpTo(10)))),
        Arc::new(Unix::new(Discover::UsersOnly)),
    ];
    assert!(
        Attestors::new(both)
            .attest(child.caller.clone())
            .await
            .is_ok()
    );
    child.end();
}

/// An attestor that goes wrong in one way or another.
#[derive(Clone, Copy, Debug)]
enum Faulty {
    Fails,
    Hangs,
    PanicsAtOnce,
    PanicsOnAThread,
}

impl WorkloadAttestor for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::Hangs => Duration::from_millis(1),
            _ => limits::WORKLOAD_ATTESTOR,
        }
    }

    fn attest(self: Arc<Self>, process: Arc<Process>, _: Deadline) -> Values {
        match *self {
            Self::Fails => async { Err(AttestorError::TooSlow(Duration::from_secs(7))) }.boxed(),
            Self::Hangs => futures::future::pending().boxed(),
            Self::PanicsAtOnce => panic!("at once"),
            Self::PanicsOnAThread => {
                async move { on_blocking_thread(&process, |_| panic!("on a thread")).await }.boxed()
            }
        }
    }
}

#[tokio::test]
async fn a_failing_attestor_costs_only_its_own_selectors() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    for (faulty, reason) in [
        (Faulty::Fails, "longer than 7s"),
        (Faulty::Hangs, "longer than 1ms"),
        (Faulty::PanicsAtOnce, "ended abnormally"),
        (Faulty::PanicsOnAThread, "ended abnormally"),
    ] {
        let error = Attestors::new(vec![Arc::new(faulty)])
            .attest(child.caller.clone())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(reason), "{faulty:?}: {error}");
        let both: Vec<Arc<dyn WorkloadAttestor>> =
            vec![Arc::new(faulty), Arc::new(Unix::new(Discover::UsersOnly))];
        let selectors = Attestors::new(both)
            .attest(child.caller.clone())
            .await
            .unwrap();
        assert!(
            has(&selectors, &format!("unix:uid:{}", nix::unistd::geteuid())),
            "{faulty:?}: {selectors:?}"
        );
    }
    child.end();
}

#[tokio::test]
async fn an_ended_caller_is_not_attested_over_its_open_connection() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let older = on_an_older_kernel(&child.caller);
    for caller in [child.end(), older] {
        let error = unix(Digest::Off).attest(caller).await.unwrap_err();
        assert!(
            matches!(
                error,
                AttestationFailed::Process(ProcessError::Ended { .. })
            ),
            "{error}"
        );
    }
}

/// A process that ended keeps its number, and much of what the kernel says of it, until its parent asks for its end.
#[test]
fn a_zombie_caller_is_not_attested() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let process = Process::open(&child.caller).unwrap();
    let older = on_an_older_kernel(&child.caller);
    child.stream.write_all(b"x").unwrap();
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(child.caller.pid)), ended).unwrap();
    let of_ended = [
        process.check_same().unwrap_err(),
        Process::open(&child.caller).unwrap_err(),
        Process::open(&older).unwrap_err(),
    ];
    for error in of_ended {
        assert!(matches!(error, ProcessError::Ended { .. }), "{error}");
    }
    child.end();
}

/// What a reused PID looks like: the number names a living process, what holds the process is the old one's.
#[test]
fn a_reused_pid_is_not_taken_for_the_caller() {
    let directory = tempfile::tempdir().unwrap();
    let executable = std::env::current_exe().unwrap();
    let old = Connected::start(directory.path(), &executable);
    let older = on_an_older_kernel(&old.caller);
    let old = old.end();
    let new = Connected::start(directory.path(), &executable);
    for ended in [old, older] {
        let reused = Caller {
            pid: new.caller.pid,
            ..ended
        };
        assert!(matches!(
            Process::open(&reused),
            Err(ProcessError::Ended { .. })
        ));
    }
    assert!(
        Process::open(&new.caller).is_ok(),
        "the new process itself is fine"
    );
    new.end();
}

/// Nor may a living process lend its pidfd to another number.
#[test]
fn a_pidfd_of_another_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let executable = std::env::current_exe().unwrap();
    let (one, two) = (
        Connected::start(directory.path(), &executable),
        Connected::start(directory.path(), &executable),
    );
    let pidfd: OwnedFd = getsockopt(&two.stream, sockopt::PeerPidfd).unwrap();
    assert!(PeerProcess::held(one.caller.pid, pidfd).is_err());
    let mixed = Caller {
        pid: one.caller.pid,
        ..two.caller.clone()
    };
    assert!(matches!(
        Process::open(&mixed),
        Err(ProcessError::Ended { .. })
    ));
    one.end();
    two.end();
}

#[test]
fn a_process_that_ends_meanwhile_fails_the_second_check() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let older = on_an_older_kernel(&child.caller);
    let processes = [&child.caller, &older].map(|caller| Process::open(caller).unwrap());
    for process in &processes {
        assert!(process.check_same().is_ok());
    }
    child.end();
    for process in processes {
        assert!(matches!(
            process.check_same(),
            Err(ProcessError::Ended { .. })
        ));
        assert!(
            process.status().is_err()
                && process.executable_path().is_err()
                && process.executable().is_err()
        );
    }
}

#[test]
fn a_caller_of_another_user_than_the_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let other = Caller {
        uid: child.caller.uid + 1,
        ..child.caller.clone()
    };
    assert!(matches!(
        Process::open(&other).unwrap().check_same(),
        Err(ProcessError::ChangedUser { .. })
    ));
    child.end();
}

#[test]
fn without_a_number_or_a_handle_there_is_no_caller() {
    let unseen = UnixCaller {
        pid: None,
        uid: 0,
        gid: 0,
        process: None,
    };
    assert!(matches!(Caller::of(&unseen), Err(ProcessError::Invisible)));
    let ended = UnixCaller {
        pid: Some(1),
        uid: 0,
        gid: 0,
        process: None,
    };
    assert!(matches!(
        Caller::of(&ended),
        Err(ProcessError::Ended { pid: 1 })
    ));
}
