//! Against an engine that the test serves, with real processes in real cgroups; and against a real Podman, where there is
//! one that can start a container.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use axum::Router;
use axum::routing::get;
use countersign_identity::SelectorSet;
use countersign_transport::clock::SystemClock;
use countersign_transport::serve::Http;
use countersign_transport::unix::{Access, Socket};
use countersign_transport::{ServeOptions, serve_unix};
use tokio_util::sync::CancellationToken;

use super::super::confinement::test_cgroup::Cgroup;
use super::super::tests::has;
use super::super::{AttestationFailed, Attestors, Caller};
use super::*;
use crate::test_note::not_tried;

const ID: &str = "eb570c55d3cc835c04ee017acd78e6626ae51f2db2a3ca35ccae90dbf1d9c0a1";

/// An engine with one container.
struct TestEngine {
    directory: tempfile::TempDir,
    answer: Arc<Mutex<String>>,
    stop: CancellationToken,
}

impl TestEngine {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&directory.path().join("d"), Access::PUBLIC)
            .await
            .unwrap();
        let answer = Arc::new(Mutex::new(String::new()));
        let told = Arc::clone(&answer);
        let path = format!("/v1.41/containers/{ID}/json");
        let router = Router::new().route(&path, get(async move || told.lock().unwrap().clone()));
        let stop = CancellationToken::new();
        let options = ServeOptions::new(Http::Auto, SystemClock::shared());
        tokio::spawn(serve_unix(socket, router, options, stop.clone()));
        Self {
            directory,
            answer,
            stop,
        }
    }

    fn says(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().unwrap());
    }

    /// As a Docker Engine says it, and then some.
    fn runs(&self, pid: u32) {
        self.says(&format!(
            r#"{{"Id": "{ID}", "Name": "/one", "Image": "sha256:{ID}", "State": {{"Running": true, "Pid": {pid}}},
            "Config": {{"Image": "coder:1", "Env": ["A=b", "C="], "Labels": {{"com.example.role": "coder"}}}}}}"#
        ));
    }

    fn engines(&self) -> Engines {
        Engines {
            name: "docker",
            docker: Some(self.directory.path().join("d")),
            docker_version: Some("1.41".into()),
            podman: "/nowhere".into(),
            rootless: None,
            matchers: None,
        }
    }

    fn engine(&self) -> Engine {
        Engine::new(self.directory.path().join("d"), Some("v1.41"))
    }

    async fn attest(&self, process: &Child) -> Result<SelectorSet, AttestationFailed> {
        attest(self.engines(), process.id()).await
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn attest(engines: Engines, pid: u32) -> Result<SelectorSet, AttestationFailed> {
    let caller = Caller::numbered(i32::try_from(pid).unwrap()).unwrap();
    Attestors::new(vec![Arc::new(Containers::new(engines))])
        .attest(caller)
        .await
}

/// A process that waits for its end.
struct Idle(Child);

impl Idle {
    fn start() -> Self {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cat.spawn().unwrap();
        // Once it answers, it has become the program that it stays.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let answer = &mut [0];
        child.stdout.as_mut().unwrap().read_exact(answer).unwrap();
        Self(child)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_in_a_container_has_spires_selectors() {
    let served = TestEngine::start().await;
    let (first, other) = (Idle::start(), Idle::start());
    let Some(container) = Cgroup::new(&format!("docker-{ID}")) else {
        return;
    };
    let below = container.below("below");
    container.add(first.0.id());
    below.add(other.0.id());
    served.runs(first.0.id());
    for process in [&first, &other] {
        let selectors = served.attest(&process.0).await.unwrap();
        for selector in [
            "docker:label:com.example.role:coder",
            "docker:env:A=b",
            "docker:env:C=",
            "docker:image_id:coder:1",
            &format!("docker:image_config_digest:sha256:{ID}"),
        ] {
            assert!(has(&selectors, selector), "{selector}: {selectors:?}");
        }
        assert_eq!(selectors.len(), 5);
    }
    drop((first, other));
}

/// Who may make cgroups, as every user with a systemd of its own may, can give them any name.
#[tokio::test]
async fn a_cgroup_named_like_a_containers_is_not_enough() {
    let served = TestEngine::start().await;
    let (first, liar) = (Idle::start(), Idle::start());
    let Some(container) = Cgroup::new(&format!("docker-{ID}")) else {
        return;
    };
    let Some(elsewhere) = Cgroup::new("elsewhere") else {
        return;
    };
    let pretended = elsewhere.below(&format!("docker-{ID}.scope"));
    container.add(first.0.id());
    pretended.add(liar.0.id());
    served.runs(first.0.id());
    let error = served.attest(&liar.0).await.unwrap_err();
    assert!(error.to_string().contains("it pretends"), "{error}");
    // Nor does it help that the engine has no such container any more, or another one.
    served.says(&format!(
        r#"{{"Id": "{ID}", "State": {{"Running": false, "Pid": 0}}, "Config": {{}}}}"#
    ));
    let error = served.attest(&liar.0).await.unwrap_err();
    assert!(error.to_string().contains("does not run"), "{error}");
    drop((first, liar));
}

#[tokio::test]
async fn outside_of_containers_no_engine_is_asked() {
    let idle = Idle::start();
    let nobody = Engines {
        name: "docker",
        docker: Some("/nowhere".into()),
        docker_version: None,
        podman: "/nowhere".into(),
        rootless: None,
        matchers: None,
    };
    assert_eq!(attest(nobody, idle.0.id()).await.unwrap().len(), 0);
}

#[tokio::test]
async fn what_an_engine_says_is_bounded_and_about_that_container() {
    let served = TestEngine::start().await;
    let engine = served.engine();
    let unknown = engine.inspect("ff").await.unwrap();
    assert!(matches!(unknown, Answer::Unknown));
    let large = format!(r#"{{"Id": "{}"}}"#, "a".repeat(limits::ENGINE_ANSWER_BYTES));
    let other = format!(r#"{{"Id": "{ID}0", "State": {{}}, "Config": {{}}}}"#);
    for (answer, reason) in [
        (large.as_str(), "more than 4194304 bytes"),
        (&other, "another container"),
        ("{}", "no container"),
        ("[", "no container"),
    ] {
        served.says(answer);
        let error = engine.inspect(ID).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let nobody = Engine::new("/nowhere".into(), None);
    let error = nobody.inspect(ID).await.unwrap_err();
    assert!(error.to_string().contains("is it running"), "{error}");
}

#[test]
fn rootless_containers_count_only_where_configured() {
    let scope = format!("0::/user.slice/user-1000.slice/user@1000.service/libpod-{ID}.scope");
    let membership = Membership::find(&scope, None).unwrap().unwrap();
    let engines = Engines {
        name: "podman",
        docker: None,
        docker_version: None,
        podman: "/p".into(),
        rootless: None,
        matchers: None,
    };
    let asked = |engines: &Engines, membership: &Membership| {
        Containers::new(engines.clone())
            .engine_of(membership)
            .map(|engine| engine.to_string())
    };
    assert_eq!(asked(&engines, &membership), None);
    let believing = Engines {
        rootless: Some(("/run/user/".into(), "/p".into())),
        ..engines.clone()
    };
    assert_eq!(
        asked(&believing, &membership).as_deref(),
        Some("/run/user/1000/p")
    );
    let of_root = format!("0::/machine.slice/libpod-{ID}.scope");
    let of_root = Membership::find(&of_root, None).unwrap().unwrap();
    assert_eq!(asked(&engines, &of_root).as_deref(), Some("/p"));
    let dockers = Membership::find(&format!("0::/docker/{ID}"), None)
        .unwrap()
        .unwrap();
    assert_eq!(asked(&engines, &dockers), None, "podman alone");
}

/// A Podman with storage of its own.
struct Podman {
    directory: tempfile::TempDir,
    service: Option<Child>,
}

impl Podman {
    fn command(&self) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        // Where cgroups of both versions are mounted, crun refuses those of version 2.
        let only_version_1 = "umount /sys/fs/cgroup/unified 2>/dev/null; exec podman \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", only_version_1, "sh", "--root"]);
        command.arg(at("root")).arg("--runroot").arg(at("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Result<String, String> {
        let mut running = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        running
            .stdin
            .take()
            .unwrap()
            .write_all(input)
            .map_err(|e| e.to_string())?;
        let ended = running.wait_with_output().map_err(|e| e.to_string())?;
        if ended.status.success() {
            Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&ended.stderr)
                .trim()
                .replace('\n', " "))
        }
    }

    /// One whose container runs, and the number of its first process.
    fn start() -> Result<(Self, u32), String> {
        let mut podman = Self {
            directory: tempfile::tempdir().unwrap(),
            service: None,
        };
        if !nix::unistd::geteuid().is_root() {
            return Err("a container of root takes root".into());
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or("there is no busybox to put into an image")?;
        podman.run(&["--version"], b"")?;
        let image = Command::new("tar")
            .args(["-c", "-C", "/", &busybox[1..]])
            .output()
            .unwrap();
        podman.run(&["import", "-", "countersign-test:1"], &image.stdout)?;
        let run = [
            "run",
            "--detach",
            "--name=one",
            "--network=none",
            "--ulimit=nofile=512:512",
            "--ulimit=nproc=512:512",
            "--memory=64m",
            "--pids-limit=50",
            "--read-only",
            "--security-opt=no-new-privileges",
            "--cap-drop=ALL",
            "--label=com.example.role=coder",
            "--env=A=b",
            "countersign-test:1",
            busybox,
            "sleep",
            "3600",
        ];
        podman.run(&run, b"")?;
        let pid = podman.run(&["inspect", "--format={{.State.Pid}}", "one"], b"")?;
        let mut service = podman
            .command()
            .args(["--log-level=info", "system", "service", "--time=0"])
            .arg(format!(
                "unix://{}",
                podman.directory.path().join("p").display()
            ))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut log = BufReader::new(service.stderr.take().unwrap()).lines();
        let listens = log.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        // It goes on writing, and must not be held up.
        std::thread::spawn(move || log.for_each(drop));
        podman.service = Some(service);
        let pid = pid.parse().map_err(|_| format!("{pid} is no number"))?;
        if listens {
            Ok((podman, pid))
        } else {
            Err("its service does not listen".into())
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--force", "--time=0", "one"], b"");
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

#[tokio::test]
async fn a_container_of_a_real_podman_is_attested() {
    let started = tokio::task::spawn_blocking(Podman::start).await.unwrap();
    let (podman, pid) = match started {
        Ok(started) => started,
        Err(why) => {
            not_tried(why);
            return;
        }
    };
    let engines = |name| Engines {
        name,
        docker: Some("/nowhere".into()),
        docker_version: None,
        podman: podman.directory.path().join("p"),
        rootless: None,
        matchers: None,
    };
    for name in ["docker", "podman"] {
        let selectors = attest(engines(name), pid).await.unwrap();
        for selector in [
            "label:com.example.role:coder",
            "env:A=b",
            "image_id:localhost/countersign-test:1",
        ] {
            assert!(
                has(&selectors, &format!("{name}:{selector}")),
                "{selector}: {selectors:?}"
            );
        }
        let id = podman
            .run(&["inspect", "--format={{.Image}}", "one"], b"")
            .unwrap();
        let digest = format!("{name}:image_config_digest:sha256:{id}");
        assert!(has(&selectors, &digest), "{digest}: {selectors:?}");
    }
    let caller = Caller::numbered(i32::try_from(pid).unwrap()).unwrap();
    let confinement: Arc<dyn WorkloadAttestor> = Arc::new(super::super::Confinement);
    let selectors = Attestors::new(vec![confinement])
        .attest(caller)
        .await
        .unwrap();
    for selector in [
        "no_new_privs:true",
        "seccomp:filter",
        "capabilities:none",
        "root:read_only",
        "memory:at_most:64MiB",
        "pids:at_most:64",
        "cgroup:no_new_privs:true",
        "cgroup:seccomp:filter",
        "cgroup:capabilities:none",
    ] {
        assert!(
            has(&selectors, &format!("confinement:{selector}")),
            "{selector}: {selectors:?}"
        );
    }
    assert!(!has(&selectors, "confinement:memory:at_most:32MiB"));
    tokio::task::spawn_blocking(move || drop(podman))
        .await
        .unwrap();
}
