//! Selectors of real child processes, over real sockets.
//!
//! The children are this test binary again, started through hard links, in the role of [`child_that_connects`].

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use countersign_runtime::UnixCaller;
use nix::sys::socket::{getsockopt, sockopt};

use super::*;

const SOCKET: &str = "COUNTERSIGN_TEST_SOCKET";

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
struct Connected {
    child: Child,
    stream: UnixStream,
    caller: Caller,
}

impl Connected {
    fn start(directory: &Path, executable: &Path) -> Self {
        let path = directory.join("s");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(executable)
            .args(["--exact", "selectors::tests::child_that_connects"])
            .env(SOCKET, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let caller = caller_of(&stream);
        Self {
            child,
            stream,
            caller,
        }
    }

    fn end(mut self) -> Caller {
        self.stream.write_all(b"x").unwrap();
        drop(self.stream);
        self.child.wait().unwrap();
        self.caller
    }
}

fn caller_of(stream: &UnixStream) -> Caller {
    let who = getsockopt(stream, sockopt::PeerCredentials).unwrap();
    let pidfd: OwnedFd = getsockopt(stream, sockopt::PeerPidfd).unwrap();
    let pidfd = Some(Arc::new(pidfd));
    Caller::of(&UnixCaller {
        pid: Some(who.pid()),
        uid: who.uid(),
        gid: who.gid(),
        pidfd,
    })
    .unwrap()
}

/// The test binary under another name, so that it differs by `unix:path` only.
fn link(directory: &Path, name: &str) -> PathBuf {
    let to = directory.join(name);
    let from = std::env::current_exe().unwrap();
    std::fs::hard_link(&from, &to)
        .or_else(|_| std::fs::copy(&from, &to).map(drop))
        .unwrap();
    to.canonicalize().unwrap()
}

fn unix(digest: Digest) -> Attestors {
    Attestors::new(vec![Arc::new(Unix::new(Discover::Executable(digest)))])
}

fn has(selectors: &SelectorSet, text: &str) -> bool {
    selectors.contains(&Selector::parse(text).unwrap())
}

#[tokio::test]
async fn processes_of_one_user_differ_by_the_path_they_were_started_by() {
    let directory = tempfile::tempdir().unwrap();
    let (coder, reviewer) = (
        link(directory.path(), "coder"),
        link(directory.path(), "reviewer"),
    );
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

#[tokio::test]
async fn a_caller_that_has_ended_is_not_attested_though_its_connection_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let caller = Connected::start(directory.path(), &std::env::current_exe().unwrap()).end();
    let error = unix(Digest::Off).attest(caller).await.unwrap_err();
    assert!(
        matches!(
            error,
            AttestationFailed::Process(ProcessError::Ended { .. })
        ),
        "{error}"
    );
}

/// What a reused PID looks like: the number names a living process, the pidfd is the old one's.
#[test]
fn a_process_that_got_the_pid_of_an_ended_caller_is_not_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let executable = std::env::current_exe().unwrap();
    let old = Connected::start(directory.path(), &executable).end();
    let new = Connected::start(directory.path(), &executable);
    let reused = Caller {
        pid: new.caller.pid,
        ..old
    };
    assert!(matches!(
        Process::open(&reused),
        Err(ProcessError::Ended { .. })
    ));
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
fn a_process_that_ends_while_it_is_looked_at_fails_the_second_check() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let process = Process::open(&child.caller).unwrap();
    assert!(process.check_same().is_ok());
    child.end();
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

#[test]
fn a_caller_of_another_user_than_the_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let child = Connected::start(directory.path(), &std::env::current_exe().unwrap());
    let other = Caller {
        uid: child.caller.uid + 1,
        ..child.caller.clone()
    };
    assert!(matches!(
        Process::open(&other),
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
        pidfd: None,
    };
    assert!(matches!(Caller::of(&unseen), Err(ProcessError::Invisible)));
    // This machine's kernel hands out pidfds, so their absence means that the process had ended.
    let ended = UnixCaller {
        pid: Some(1),
        uid: 0,
        gid: 0,
        pidfd: None,
    };
    assert!(matches!(
        Caller::of(&ended),
        Err(ProcessError::Ended { pid: 1 })
    ));
}
