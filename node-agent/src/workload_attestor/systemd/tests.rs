//! Over a real bus, on which the test answers as systemd does.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use countersign_identity::SelectorSet;
use futures::StreamExt as _;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use zbus::{MessageStream, Variant};

use super::super::tests::has;
use super::super::{Attestors, Caller};
use super::*;
use crate::test_note::not_tried;

/// A bus for the test alone.
struct Bus {
    address: String,
    daemon: Child,
}

impl Bus {
    fn start() -> Option<Self> {
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            .spawn();
        let mut daemon = match daemon {
            Ok(daemon) => daemon,
            Err(error) => {
                not_tried(format_args!("dbus-daemon: {error}"));
                return None;
            }
        };
        let mut address = String::new();
        let mut printed = BufReader::new(daemon.stdout.take().unwrap());
        printed.read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        Some(Self { address, daemon })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Answers for one process, which belongs to this unit.
async fn systemd(bus: &Bus, pid: u32, id: &'static str) {
    let connection = Builder::address(bus.address.as_str())
        .build()
        .await
        .unwrap();
    let mut calls = MessageStream::from(&connection);
    connection.request_name(SYSTEMD).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(call)) = calls.next().await {
            let header = call.header();
            match header.member().map(|member| member.to_string()).as_deref() {
                Some("GetUnitByPID") if call.body().deserialize() == Ok(pid) => {
                    let unit = ObjectPath::try_from("/org/freedesktop/systemd1/unit/coder");
                    connection.reply(&header, &unit.unwrap()).await.unwrap();
                }
                Some("GetUnitByPID") => {
                    let why = "PID does not belong to any loaded unit.";
                    connection
                        .reply_error(&header, NO_UNIT, &why)
                        .await
                        .unwrap();
                }
                Some("Get") => {
                    let body = call.body();
                    let (interface, property): (&str, &str) = body.deserialize().unwrap();
                    assert_eq!(interface, "org.freedesktop.systemd1.Unit");
                    let value = match property {
                        "Id" => id,
                        _ => "/etc/systemd/system/coder.service",
                    };
                    connection
                        .reply(&header, &Variant::from(value))
                        .await
                        .unwrap();
                }
                _ => {}
            }
        }
    });
}

async fn attest(address: &str) -> Result<SelectorSet, String> {
    attest_process(address, i32::try_from(std::process::id()).unwrap()).await
}

async fn attest_process(address: &str, pid: i32) -> Result<SelectorSet, String> {
    let bus = Some(address.to_owned());
    Attestors::new(vec![Arc::new(Systemd { bus })])
        .attest(Caller::numbered(pid).unwrap())
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_process_of_a_unit_has_its_name_and_file() {
    let Some(bus) = Bus::start() else { return };
    systemd(&bus, std::process::id(), "coder.service").await;
    let selectors = attest(&bus.address).await.unwrap();
    assert!(has(&selectors, "systemd:id:coder.service"), "{selectors:?}");
    let path = "systemd:fragment_path:/etc/systemd/system/coder.service";
    assert!(has(&selectors, path), "{selectors:?}");
    assert_eq!(selectors.len(), 2);
}

#[tokio::test]
async fn a_process_of_no_unit_has_no_selectors_and_that_is_no_failure() {
    let Some(bus) = Bus::start() else { return };
    systemd(&bus, 1, "coder.service").await;
    assert_eq!(attest(&bus.address).await.unwrap().len(), 0);
}

#[tokio::test]
async fn without_a_bus_or_systemd_on_it_the_attestor_says_so() {
    let nowhere = attest("unix:path=/nowhere/bus").await.unwrap_err();
    assert!(nowhere.contains("could not ask systemd"), "{nowhere}");
    let Some(bus) = Bus::start() else { return };
    let nobody = attest(&bus.address).await.unwrap_err();
    assert!(nobody.contains("could not ask systemd"), "{nobody}");
    let long = "a".repeat(limits::UNIT_BYTES + 1).leak();
    systemd(&bus, std::process::id(), long).await;
    let long = attest(&bus.address).await.unwrap_err();
    assert!(long.contains("more than 4096"), "{long}");
}

/// A systemd of its own, as those of users are, with one service; in its own cgroup, and told that this machine has
/// been started by a systemd, without which it does nothing.
struct Manager {
    bus: Bus,
    systemd: Child,
    directory: tempfile::TempDir,
}

const IN_ITS_OWN_PLACE: &str = r#"
    mount -t tmpfs none /run/systemd && mkdir /run/systemd/system || exit 1
    for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [ -e $root/cgroup.procs ] || continue
        mkdir $root/countersign-$$ && echo $$ > $root/countersign-$$/cgroup.procs || exit 1
    done
    exec /lib/systemd/systemd --user
"#;

impl Manager {
    fn start() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a systemd in a cgroup of its own takes root".into());
        }
        if !["/lib/systemd/systemd", "/run/systemd"]
            .iter()
            .all(|path| Path::new(path).exists())
        {
            return Err("there is no systemd here".into());
        }
        let bus = Bus::start().ok_or("there is no bus")?;
        let directory = tempfile::tempdir().unwrap();
        let ready = UnixDatagram::bind(directory.path().join("n")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", IN_ITS_OWN_PLACE]);
        let systemd = with_home(&mut command, &bus, directory.path())
            .env("NOTIFY_SOCKET", directory.path().join("n"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut manager = Self {
            bus,
            systemd,
            directory,
        };
        manager.wait_for(&ready)?;
        let run = [
            "--user",
            "--unit=coder",
            "--property=Type=exec",
            "sleep",
            "3600",
        ];
        manager.command("systemd-run", &run)?;
        Ok(manager)
    }

    /// Says itself when it is ready; if it ends before, the test says so in its place.
    fn wait_for(&mut self, ready: &UnixDatagram) -> Result<(), String> {
        let pid = Pid::from_raw(i32::try_from(self.systemd.id()).unwrap());
        let socket = self.directory.path().join("n");
        std::thread::spawn(move || {
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let _ = UnixDatagram::unbound().unwrap().send_to(b"ENDED", socket);
        });
        loop {
            let buffer = &mut [0; 4096];
            let length = ready.recv(buffer).unwrap();
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.contains("READY=1") {
                return Ok(());
            }
            if said == "ENDED" {
                return Err("systemd ended at once".into());
            }
        }
    }

    /// Waits until it has its name on the bus, for which it looks when it is told to.
    async fn is_on_the_bus(&self) {
        let bus = Builder::address(self.bus.address.as_str())
            .build()
            .await
            .unwrap();
        let mut signals = MessageStream::from(&bus);
        let daemon = "org.freedesktop.DBus";
        let ask = async |method: &'static str, what: &str| {
            bus.call_method(
                Some(daemon),
                "/org/freedesktop/DBus",
                Some(daemon),
                method,
                &what,
            )
            .await
            .unwrap()
        };
        let rule = format!("type='signal',member='NameOwnerChanged',arg0='{SYSTEMD}'");
        ask("AddMatch", &rule).await;
        let pid = Pid::from_raw(i32::try_from(self.systemd.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
        let has: bool = ask("NameHasOwner", SYSTEMD)
            .await
            .body()
            .deserialize()
            .unwrap();
        if has {
            return;
        }
        loop {
            let signal = signals.next().await.unwrap().unwrap();
            let header = signal.header();
            if header
                .member()
                .is_some_and(|member| member.as_str() == "NameOwnerChanged")
                && signal
                    .body()
                    .deserialize::<(&str, &str, &str)>()
                    .is_ok_and(|(name, ..)| name == SYSTEMD)
            {
                return;
            }
        }
    }

    fn command(&self, tool: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(tool);
        let ran = with_home(command.args(arguments), &self.bus, self.directory.path())
            .output()
            .map_err(|error| format!("{tool}: {error}"))?;
        if ran.status.success() {
            Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned())
        }
    }
}

fn with_home<'a>(command: &'a mut Command, bus: &Bus, home: &Path) -> &'a mut Command {
    command
        .env("XDG_RUNTIME_DIR", home)
        .env("HOME", home)
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.command("systemctl", &["--user", "stop", "coder"]);
        let _ = self.command("systemctl", &["--user", "exit"]);
        let _ = self.systemd.wait();
        for root in [
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup",
        ] {
            let own = Path::new(root).join(format!("countersign-{}", self.systemd.id()));
            for below in ["app.slice", "init.scope", ""] {
                let _ = std::fs::remove_dir(own.join(below));
            }
        }
    }
}

#[tokio::test]
async fn a_real_systemd_says_which_service_of_its_own_a_process_is() {
    let manager = match tokio::task::spawn_blocking(Manager::start).await.unwrap() {
        Ok(manager) => manager,
        Err(why) => {
            not_tried(why);
            return;
        }
    };
    // Only so that a systemd that never does keeps nobody waiting.
    tokio::time::timeout(Duration::from_secs(60), manager.is_on_the_bus())
        .await
        .unwrap();
    let show = ["--user", "show", "--property=MainPID", "--value", "coder"];
    let pid = manager
        .command("systemctl", &show)
        .unwrap()
        .parse()
        .unwrap();
    let selectors = attest_process(&manager.bus.address, pid).await.unwrap();
    assert!(has(&selectors, "systemd:id:coder.service"), "{selectors:?}");
    let show = [
        "--user",
        "show",
        "--property=FragmentPath",
        "--value",
        "coder",
    ];
    let path = manager.command("systemctl", &show).unwrap();
    assert!(path.ends_with("coder.service"), "{path}");
    let path = format!("systemd:fragment_path:{path}");
    assert!(has(&selectors, &path), "{selectors:?}");
    // This process is none of its.
    assert_eq!(attest(&manager.bus.address).await.unwrap().len(), 0);
    tokio::task::spawn_blocking(move || drop(manager))
        .await
        .unwrap();
}
