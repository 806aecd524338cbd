//! Real processes on the real socket: nobody gets the SVID of another, whatever becomes of the one that connected.
//!
//! The processes are this test binary again, in the role of [`child`]. Each does the steps that it is given and tells the
//! test by a socket of the test's own what it has done; the test says when it goes on. So everything happens in the order
//! that the test means, and nothing by time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use countersign_proto::spiffe::workload::X509svidResponse;
use hyper_util::rt::TokioIo;

use super::*;
use crate::test_note::not_tried;
use crate::workload_attestor::Digest;

const CHILD: &str = "api::tests::wrong_process::child";
const INNER: &str = "COUNTERSIGN_TEST_INNER";
const STEPS: &str = "COUNTERSIGN_TEST_STEPS";
/// The steps of the process to which the connection is lent.
const LENT: &str = "COUNTERSIGN_TEST_LENT";
/// The steps of the program that the process becomes.
const NEXT: &str = "COUNTERSIGN_TEST_NEXT";
const API: &str = "COUNTERSIGN_TEST_API";
const CONTROL: &str = "COUNTERSIGN_TEST_CONTROL";

/// Not a test of its own: what a child process does.
#[test]
#[expect(
    clippy::zombie_processes,
    reason = "a lender ends without a look at the process to which it lent its connection"
)]
fn child() {
    let Ok(steps) = std::env::var(STEPS) else {
        return;
    };
    let mut control = None;
    let mut connection = None;
    for step in steps.split(';') {
        let (verb, argument) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "connect" => {
                connection = Some(UnixStream::connect(std::env::var(API).unwrap()).unwrap());
            }
            "inherit" => {
                let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
                connection = Some(UnixStream::from(stdin));
            }
            // To a process of its own; it holds the connection for as long as it lives.
            "lend" => {
                let lent = connection.as_ref().unwrap().try_clone().unwrap();
                command(&std::env::current_exe().unwrap())
                    .env(STEPS, std::env::var(LENT).unwrap())
                    .stdin(Stdio::from(OwnedFd::from(lent)))
                    .spawn()
                    .unwrap();
            }
            "exec" => {
                nix::unistd::dup2_stdin(connection.as_ref().unwrap()).unwrap();
                let error = command(Path::new(argument))
                    .env(STEPS, std::env::var(NEXT).unwrap())
                    .exec();
                panic!("{argument}: {error}");
            }
            "tell" => tell(&mut control, argument),
            "ask" => {
                let answer = ask(connection.as_ref().unwrap());
                tell(&mut control, &answer);
            }
            other => panic!("{other} is no step"),
        }
    }
}

/// Says something to the test and waits for its word.
fn tell(control: &mut Option<BufReader<UnixStream>>, what: &str) {
    let control = control.get_or_insert_with(|| {
        let path = std::env::var(CONTROL).unwrap();
        BufReader::new(UnixStream::connect(path).unwrap())
    });
    writeln!(control.get_mut(), "{what}").unwrap();
    // At the end of the test there is no word.
    let _ = control.read_line(&mut String::new());
}

/// The IDs in the first answer, or the refusal.
fn ask(connection: &UnixStream) -> String {
    let connection = connection.try_clone().unwrap();
    connection.set_nonblocking(true).unwrap();
    let answer = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = tokio::net::UnixStream::from_std(connection).unwrap();
        let mut connection = Some(TokioIo::new(connection));
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_: http::Uri| {
                let connection = connection.take();
                async { connection.ok_or_else(|| std::io::Error::other("connected twice")) }
            }))
            .await
            .unwrap();
        let mut request = tonic::Request::new(X509svidRequest {});
        let yes = tonic::metadata::MetadataValue::from_static("true");
        request.metadata_mut().insert(SECURITY_HEADER, yes);
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let answers = client.fetch_x509svid(request).await?;
        answers.into_inner().message().await
    });
    match answer {
        Ok(answer) => ids(&answer.unwrap()),
        Err(status) => format!("{:?}", status.code()),
    }
}

fn ids(answer: &X509svidResponse) -> String {
    let ids = answer.svids.iter().map(|svid| svid.spiffe_id.as_str());
    ids.collect::<Vec<_>>().join(" ")
}

fn command(executable: &Path) -> Command {
    let mut command = Command::new(executable);
    command.args(["--exact", CHILD, "--nocapture"]);
    command.stdout(Stdio::null());
    command
}

/// A node agent and the processes that the test has with it.
struct Stage {
    served: TestAgent,
    control: UnixListener,
    children: Vec<Child>,
}

/// The other end of what a child tells.
struct ChildLines(BufReader<UnixStream>);

impl Stage {
    async fn new(discover: Discover) -> Self {
        let served = TestAgent::with_attestor(ApiConfig::default(), Unix::new(discover)).await;
        let control = UnixListener::bind(served.directory.path().join("c")).unwrap();
        Self {
            served,
            control,
            children: Vec::new(),
        }
    }

    /// One identity for each of these sets of selectors: `spiffe://example.org/0` and so on.
    fn entries(&self, selectors: &[&[&str]]) {
        let entries = selectors.iter().enumerate().map(|(number, selectors)| {
            let entry = crate::entry::tests::entry(&number.to_string(), selectors);
            self.served.signed(entry)
        });
        self.served.publish(&entries.collect::<Vec<_>>(), &[]);
    }

    /// This test binary under another name.
    fn program(&self, name: &str) -> PathBuf {
        let path = self.served.directory.path().join(name);
        match std::fs::hard_link(std::env::current_exe().unwrap(), &path) {
            Ok(()) => path,
            Err(_) => self.copy(name, 0),
        }
    }

    /// Its content in a file of its own, `more` bytes longer, which changes nothing but its digest. A link would not do for
    /// one that is hashed: other tests' links change the file too.
    fn copy(&self, name: &str, more: u64) -> PathBuf {
        let path = self.served.directory.path().join(name);
        let own = std::env::current_exe().unwrap();
        let size = own.metadata().unwrap().len() + more;
        // By processes of their own: a program that anybody has open for writing, be it a child of this process that is
        // only about to be one, can't be started.
        for command in [
            Command::new("cp").arg(&own).arg(&path),
            Command::new("truncate")
                .arg(format!("--size={size}"))
                .arg(&path),
        ] {
            assert!(command.status().unwrap().success());
        }
        path
    }

    fn start(&mut self, command: &mut Command, steps: &str) -> &mut Child {
        let child = command
            .env(STEPS, steps)
            .env(API, self.served.socket())
            .env(CONTROL, self.served.directory.path().join("c"))
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    /// What the next child tells at first.
    async fn told(&self) -> (String, ChildLines) {
        let control = self.control.try_clone().unwrap();
        let accepted = tokio::task::spawn_blocking(move || control.accept().unwrap().0);
        ChildLines(BufReader::new(accepted.await.unwrap()))
            .next()
            .await
    }

    /// Waits until a process has connected and the node agent has looked at who did, and lets it go on.
    async fn accepted(&self) -> ChildLines {
        let mut told = self.says("connected").await;
        // Callers are taken one after the other, so with a later one answered, this one was taken.
        let later = self.served.client().await.x509_svids().await;
        later.unwrap();
        told.let_go();
        told
    }

    /// The first word of the process that says this one.
    async fn says(&self, what: &str) -> ChildLines {
        let (said, told) = self.told().await;
        assert_eq!(said, what);
        told
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl ChildLines {
    async fn next(mut self) -> (String, Self) {
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            (line.trim_end().to_owned(), self)
        });
        reading.await.unwrap()
    }

    /// Lets the process go on, and hears what it says then.
    async fn go_on(mut self) -> (String, Self) {
        self.let_go();
        self.next().await
    }

    fn let_go(&mut self) {
        self.0.get_mut().write_all(b"\n").unwrap();
    }
}

fn by_path(path: &Path) -> String {
    format!("unix:path:{}", path.canonicalize().unwrap().display())
}

const REFUSED: &str = "Unavailable";

#[tokio::test]
async fn exec_after_connect_gets_neither_identity() {
    let mut stage = Stage::new(Discover::Executable(Digest::Off)).await;
    let (one, two) = (stage.program("one"), stage.program("two"));
    stage.entries(&[&[&by_path(&one)], &[&by_path(&two)]]);
    let steps = format!("connect;tell connected;exec {}", two.display());
    stage.start(
        command(&one).env(NEXT, "tell two;inherit;ask;connect;ask"),
        &steps,
    );
    stage.accepted().await;
    let (answer, told) = stage.says("two").await.go_on().await;
    assert_eq!(answer, REFUSED);
    let (answer, _) = told.go_on().await;
    assert_eq!(answer, "spiffe://example.org/1", "over its own connection");
}

/// The connecting process makes itself look right, while another one that it has lent the connection to does the asking.
#[tokio::test]
async fn a_lent_connection_does_not_follow_the_lenders_exec() {
    let mut stage = Stage::new(Discover::Executable(Digest::Off)).await;
    let (liar, trusted) = (stage.program("liar"), stage.program("trusted"));
    stage.entries(&[&[&by_path(&trusted)]]);
    let steps = format!("connect;tell connected;lend;exec {}", trusted.display());
    let liar = &mut command(&liar);
    liar.env(LENT, "inherit;tell lent;ask")
        .env(NEXT, "tell trusted");
    stage.start(liar, &steps);
    stage.accepted().await;
    let (mut lent, mut trusted) = (None, None);
    for _ in 0..2 {
        match stage.told().await {
            (name, told) if name == "lent" => lent = Some(told),
            (name, told) if name == "trusted" => trusted = Some(told),
            (other, _) => panic!("{other}"),
        }
    }
    assert!(trusted.is_some(), "it runs the trusted program now");
    assert_eq!(lent.unwrap().go_on().await.0, REFUSED);
}

#[tokio::test]
async fn a_caller_that_ends_before_its_request_gets_no_identity() {
    for (number, reaped) in [true, false].into_iter().enumerate() {
        let mut stage = Stage::new(Discover::UsersOnly).await;
        stage.entries(&[&[&own()]]);
        let lender = &mut command(&std::env::current_exe().unwrap());
        stage.start(
            lender.env(LENT, "inherit;tell lent;ask"),
            "connect;tell connected;lend",
        );
        stage.accepted().await;
        let lender = stage.children.last_mut().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(lender.id()).unwrap());
        if reaped {
            lender.wait().unwrap();
        } else {
            use nix::sys::wait::{Id, WaitPidFlag, waitid};
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        }
        let told = stage.says("lent").await;
        assert_eq!(told.go_on().await.0, REFUSED, "{number}");
    }
}

#[tokio::test]
async fn a_symlink_gives_the_identity_of_its_target() {
    let mut stage = Stage::new(Discover::Executable(Digest::Off)).await;
    let program = stage.program("program");
    let link = stage.served.directory.path().join("link");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    let named_as_link = format!("unix:path:{}", link.display());
    stage.entries(&[&[&by_path(&program)], &[&named_as_link]]);
    stage.start(&mut command(&link), "connect;ask");
    assert_eq!(stage.told().await.0, "spiffe://example.org/0");
}

#[tokio::test]
async fn a_replaced_program_matches_neither_path() {
    for replace in [true, false] {
        let mut stage = Stage::new(Discover::Executable(Digest::AnySize)).await;
        let (program, new) = (stage.copy("program", 0), stage.copy("new", 1));
        let path = by_path(&program);
        stage.entries(&[
            &[&path],
            &[&path, &digest_of(&new)],
            &[&digest_of(&program)],
        ]);
        stage.start(&mut command(&program), "connect;tell old;ask");
        let old = stage.says("old").await;
        if replace {
            std::fs::rename(&new, &program).unwrap();
        } else {
            std::fs::remove_file(&program).unwrap();
        }
        // What it really runs is known all the same.
        assert_eq!(old.go_on().await.0, "spiffe://example.org/2");
        if replace {
            stage.start(&mut command(&program), "connect;ask");
            assert_eq!(
                stage.told().await.0,
                "spiffe://example.org/0 spiffe://example.org/1"
            );
        }
    }
}

fn digest_of(path: &Path) -> String {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(path).unwrap());
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("unix:sha256:{hex}")
}

const TWO_GIB: u64 = 2 << 30;

#[tokio::test]
async fn a_program_of_two_gigabytes_is_treated_as_configured() {
    for (digest, want) in [
        (Digest::UpTo(TWO_GIB), REFUSED),
        (Digest::Off, "spiffe://example.org/0"),
    ] {
        let mut stage = Stage::new(Discover::Executable(digest)).await;
        // The rest of it is a hole, which takes no room on the disk.
        let large = stage.copy("large", TWO_GIB);
        stage.entries(&[&[&by_path(&large)], &["unix:sha256:00"]]);
        stage.start(&mut command(&large), "connect;ask");
        assert_eq!(stage.told().await.0, want, "{digest:?}");
    }
}

/// It would take hours to read; whoever started it waits, and is given up in the end.
#[tokio::test]
async fn a_program_that_is_slow_to_read_blocks_no_other_caller() {
    let mut stage = Stage::new(Discover::Executable(Digest::AnySize)).await;
    let endless = stage.copy("endless", 1 << 42);
    let small = stage.copy("small", 0);
    stage.entries(&[&[&by_path(&endless)], &[&by_path(&small)]]);
    for _ in 0..4 {
        stage.start(&mut command(&endless), "connect;tell endless;ask");
    }
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut told = stage.says("endless").await;
        told.let_go();
        waiting.push(told);
    }
    stage.start(&mut command(&small), "connect;ask");
    assert_eq!(stage.told().await.0, "spiffe://example.org/1");
}

/// `unshare` with these namespaces, and what must be said when the kernel forbids it.
fn unshare(namespaces: &[&str]) -> Option<Command> {
    let mut unshare = vec!["--fork", "--kill-child"];
    unshare.extend(namespaces);
    if !nix::unistd::geteuid().is_root() {
        unshare.extend(["--user", "--map-root-user"]);
    }
    let tried = Command::new("unshare").args(&unshare).arg("true").output();
    match tried {
        Ok(tried) if tried.status.success() => {
            let mut command = Command::new("unshare");
            command.args(unshare);
            Some(command)
        }
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stderr);
            not_tried(why.trim());
            None
        }
        Err(error) => {
            not_tried(format_args!("unshare: {error}"));
            None
        }
    }
}

#[tokio::test]
async fn a_caller_in_a_pid_namespace_has_its_outer_identity() {
    let Some(mut unshare) = unshare(&["--pid"]) else {
        return;
    };
    let mut stage = Stage::new(Discover::Executable(Digest::Off)).await;
    let program = stage.program("program");
    stage.entries(&[&[&by_path(&program)]]);
    let unshare = unshare
        .arg(&program)
        .args(["--exact", CHILD, "--nocapture"]);
    stage.start(unshare.stdout(Stdio::null()), "connect;ask");
    assert_eq!(
        stage.told().await.0,
        "spiffe://example.org/0",
        "it is number 1 in there, and not the first process of this machine"
    );
}

/// The other way round: to a node agent in a PID namespace of its own, callers from outside have no number.
#[tokio::test]
async fn a_caller_outside_the_node_agents_pid_namespace_is_refused() {
    let Some(mut unshare) = unshare(&["--pid", "--mount-proc"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let control = UnixListener::bind(directory.path().join("c")).unwrap();
    let mut inner = unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "api::tests::wrong_process::node_agent_inside"])
        .env(INNER, directory.path().join("c"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let accepted = tokio::task::spawn_blocking(move || control.accept().unwrap().0);
    let (socket, told) = ChildLines(BufReader::new(accepted.await.unwrap()))
        .next()
        .await;
    let mut client = WorkloadClient::connect(Path::new(&socket)).await.unwrap();
    let answer = client.x509_svids().await.map(drop).unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable);
    drop(told);
    assert!(inner.wait().unwrap().success());
}

/// Not a test of its own: a node agent in a PID namespace, until the test outside lets it go.
#[tokio::test]
async fn node_agent_inside() {
    let Some(control) = std::env::var_os(INNER) else {
        return;
    };
    let served = TestAgent::start().await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let inside = served
        .client()
        .await
        .x509_svids()
        .await
        .unwrap()
        .message()
        .await;
    assert_eq!(ids(&inside.unwrap().unwrap()), "spiffe://example.org/a");
    let mut control = Some(BufReader::new(UnixStream::connect(control).unwrap()));
    let socket = served.socket().display().to_string();
    let waiting = tokio::task::spawn_blocking(move || tell(&mut control, &socket));
    waiting.await.unwrap();
}

/// The real thing: in a PID namespace, in which numbers can be chosen, a process gets the number of an ended caller.
#[test]
fn a_reused_pid_lends_its_predecessor_no_identity() {
    let Some(mut unshare) = unshare(&["--pid", "--mount-proc"]) else {
        return;
    };
    let inner = unshare
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "api::tests::wrong_process::number_is_used_again",
            "--nocapture",
        ])
        .env(INNER, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success(), "{output}");
    for why in String::from_utf8_lossy(&inner.stderr)
        .lines()
        .filter_map(|line| line.strip_prefix("not tried: "))
    {
        not_tried(why);
    }
}

/// Not a test of its own: runs in a PID namespace.
#[tokio::test]
async fn number_is_used_again() {
    use crate::workload_attestor::{Caller, Process, ProcessError};

    if std::env::var_os(INNER).is_none() {
        return;
    }
    let mut stage = Stage::new(Discover::UsersOnly).await;
    stage.entries(&[&[&own()]]);
    let executable = std::env::current_exe().unwrap();
    let lender = &mut command(&executable);
    let lender = lender.env(LENT, "inherit;tell lent;ask");
    let lender = stage.start(lender, "connect;tell connected;lend;tell lender");
    let old = lender.id();
    let lender = stage.accepted().await;
    let lent = stage.says("lent").await;
    // As it is known where there is no SO_PEERPIDFD.
    let older = Caller::numbered(i32::try_from(old).unwrap()).unwrap();
    assert!(Process::open(&older).is_ok());
    drop(lender);
    stage.children.pop().unwrap().wait().unwrap();

    // Threads take numbers too, so one may come in between.
    let mut last = String::new();
    let same_number = (0..1000).any(|number| {
        last = format!("new {number}");
        if let Err(error) = std::fs::write("/proc/sys/kernel/ns_last_pid", (old - 1).to_string()) {
            not_tried(format_args!("numbers can't be chosen here: {error}"));
            return true;
        }
        let child = stage.start(
            &mut command(&executable),
            &format!("connect;tell {last};ask"),
        );
        if child.id() == old {
            return true;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        stage.children.pop();
        false
    });
    assert!(same_number);
    let Some(new) = stage.children.last().filter(|child| child.id() == old) else {
        return;
    };
    assert!(Path::new(&format!("/proc/{}", new.id())).exists());
    assert_eq!(lent.go_on().await.0, REFUSED);
    assert!(matches!(
        Process::open(&older),
        Err(ProcessError::Ended { .. })
    ));
    // The new process is somebody of its own.
    loop {
        let (said, told) = stage.told().await;
        if said == last {
            assert_eq!(told.go_on().await.0, "spiffe://example.org/0");
            return;
        }
    }
}
