//! Real processes, confined by the tools of every distribution. What the machine does not allow is said in one line.

use std::path::Path;
use std::process::Command;

use countersign_identity::SelectorSet;

use super::super::tests::{CHILD, Connected, SOCKET, has};
use super::super::{AttestationFailed, Attestors};
use super::test_cgroup::{Cgroup, is_root};
use super::*;
use crate::test_note::not_tried;

async fn attested(child: &Connected) -> Result<SelectorSet, AttestationFailed> {
    Attestors::new(vec![Arc::new(Confinement)])
        .attest(child.caller.clone())
        .await
}

/// This test binary, started by these words before it; none if they can't be said on this machine.
fn started_by(directory: &Path, words: &[&str]) -> Option<Connected> {
    let (tool, arguments) = words.split_first().unwrap();
    let own = std::env::current_exe().unwrap();
    let idle = ["--exact", "no such test"];
    let tried = Command::new(tool)
        .args(arguments)
        .arg(&own)
        .args(idle)
        .output();
    match tried {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stderr);
            not_tried(why.trim());
            return None;
        }
        Err(error) => {
            not_tried(format_args!("{tool}: {error}"));
            return None;
        }
    }
    let command = &mut Command::new(tool);
    Some(Connected::run(
        directory,
        command.args(arguments).arg(own).args(CHILD),
    ))
}

const NOTHING: [&str; 4] = [
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all",
    "--inh-caps=-all",
];

#[tokio::test]
async fn a_process_of_every_day_is_not_confined() {
    let directory = tempfile::tempdir().unwrap();
    let child = started_by(directory.path(), &["env"]).unwrap();
    let selectors = attested(&child).await.unwrap();
    for selector in ["no_new_privs:true", "seccomp:filter", "user_namespace:own"] {
        // Unless the tests themselves are.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        if own.contains("NoNewPrivs:\t0") && own.contains("Seccomp:\t0") {
            assert!(
                !has(&selectors, &format!("confinement:{selector}")),
                "{selectors:?}"
            );
        }
    }
    if nix::unistd::geteuid().is_root() {
        assert!(!has(&selectors, "confinement:capabilities:none"));
        assert!(
            !has(&selectors, "confinement:no_cap:CAP_SETUID"),
            "{selectors:?}"
        );
    }
    child.end();
}

#[tokio::test]
async fn a_process_without_privileges_and_ways_to_them_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let Some(child) = started_by(directory.path(), &NOTHING) else {
        return;
    };
    let selectors = attested(&child).await.unwrap();
    for selector in [
        "no_new_privs:true",
        "capabilities:none",
        "no_cap:CAP_SYS_ADMIN",
    ] {
        assert!(
            has(&selectors, &format!("confinement:{selector}")),
            "{selectors:?}"
        );
    }
    child.end();
}

/// It has none now; but it may start a program that has them.
#[tokio::test]
async fn capabilities_gained_by_starting_a_program_count() {
    let directory = tempfile::tempdir().unwrap();
    let words = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--inh-caps=-all",
    ];
    let Some(child) = started_by(directory.path(), &words) else {
        return;
    };
    let selectors = attested(&child).await.unwrap();
    assert!(
        !has(&selectors, "confinement:capabilities:none"),
        "{selectors:?}"
    );
    assert!(
        !has(&selectors, "confinement:no_cap:CAP_SYS_ADMIN"),
        "{selectors:?}"
    );
    child.end();
}

/// One thread that is not confined is enough to do what confined ones may not.
#[tokio::test]
async fn what_does_not_hold_for_all_threads_is_not_said() {
    let directory = tempfile::tempdir().unwrap();
    for (who, want) in [("all", true), ("one", false)] {
        let Some(child) = python(directory.path(), who) else {
            return;
        };
        let selectors = attested(&child).await.unwrap();
        for selector in ["no_new_privs:true", "seccomp:filter"] {
            let said = has(&selectors, &format!("confinement:{selector}"));
            assert_eq!(said, want, "{who} {selector}: {selectors:?}");
        }
        child.end();
    }
}

/// Two threads, of which all or one may gain no privileges and have a filter that allows everything.
const TWO_THREADS: &str = r#"
import ctypes, os, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def confine():
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(code)))
    assert libc.prctl(22, 2, program, 0, 0) == 0
other = threading.Event()
if sys.argv[1] == "all":
    confine()
threading.Thread(target=other.wait, daemon=True).start()
if sys.argv[1] == "one":
    confine()
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["COUNTERSIGN_TEST_SOCKET"])
connection.recv(1)
"#;

fn python(directory: &Path, who: &str) -> Option<Connected> {
    assert!(TWO_THREADS.contains(SOCKET));
    if Command::new("python3").arg("--version").output().is_err() {
        not_tried("there is no python3 to make threads that differ");
        return None;
    }
    let command = &mut Command::new("python3");
    Some(Connected::run(
        directory,
        command.args(["-c", TWO_THREADS, who]),
    ))
}

const BY_NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid=65534",
    "--clear-groups",
    "unshare",
    "--user",
    "--map-root-user",
];

#[tokio::test]
async fn an_own_user_namespace_and_its_root_are_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let mut cases = vec![(
        &["unshare", "--user", "--map-root-user"][..],
        !nix::unistd::geteuid().is_root(),
    )];
    if nix::unistd::geteuid().is_root() {
        cases.push((&BY_NOBODY, true));
    }
    for (words, without_root) in cases {
        let Some(child) = started_by(directory.path(), words) else {
            return;
        };
        let selectors = attested(&child).await.unwrap();
        assert!(
            has(&selectors, "confinement:user_namespace:own"),
            "{selectors:?}"
        );
        let said = has(&selectors, "confinement:user_namespace:without_root");
        assert_eq!(said, without_root, "{selectors:?}");
        assert!(
            !has(&selectors, "confinement:capabilities:none"),
            "it has them all in there"
        );
        child.end();
    }
}

#[tokio::test]
async fn a_read_only_root_is_that_of_the_process_itself() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("r");
    std::fs::create_dir(&place).unwrap();
    let nothing = NOTHING.join(" ");
    let below = format!(
        "mount --rbind / {0} && mount -o remount,ro,bind {0} && exec chroot {0} {nothing} \"$@\"",
        place.display()
    );
    // The root that the process has stays below, and can be written to.
    let over = format!(
        "mount --bind / {0} && mount -o remount,ro,bind {0} && mount --move {0} / && touch {0}-written && exec {nothing} \
         \"$@\"",
        place.display()
    );
    let may_mount = below.replace(&nothing, "setpriv --no-new-privs");
    for (script, want) in [(below, true), (over, false), (may_mount, false)] {
        let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
        let Some(child) = started_by(directory.path(), &words) else {
            return;
        };
        let selectors = attested(&child).await.unwrap();
        assert_eq!(
            has(&selectors, "confinement:root:read_only"),
            want,
            "{script}: {selectors:?}"
        );
        child.end();
    }
}

const NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--bounding-set=-all",
    "--inh-caps=-all",
];

#[tokio::test]
async fn a_limit_counts_if_the_process_can_neither_lift_it_nor_leave() {
    let Some(cgroup) = Cgroup::new("countersign-limit") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let Some(child) = started_by(directory.path(), &NOBODY) else {
        return;
    };
    let limited = async || {
        let selectors = attested(&child).await.unwrap();
        ["limited", "at_most:32", "at_most:64", "at_most:65536"]
            .map(|value| has(&selectors, &format!("confinement:pids:{value}")))
    };
    assert_eq!(limited().await, [false; 4]);
    let below = cgroup.below("b");
    below.add(child.pid());
    // The limit is the one above.
    assert_eq!(limited().await, [true, false, true, true]);
    std::fs::write(below.0.join("pids.max"), "20").unwrap();
    assert_eq!(limited().await, [true; 4], "the tightest");
    below.give_to(65534);
    assert_eq!(
        limited().await,
        [true, false, true, true],
        "it can lift its own"
    );
    cgroup.give_to(65534);
    assert_eq!(limited().await, [false; 4]);
    child.end();
}

#[tokio::test]
async fn a_limit_on_somebody_who_can_do_everything_does_not_count() {
    let Some(cgroup) = Cgroup::new("countersign-root") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let child = started_by(directory.path(), &["env"]).unwrap();
    cgroup.add(child.pid());
    let selectors = attested(&child).await.unwrap();
    assert!(
        !has(&selectors, "confinement:pids:limited"),
        "{selectors:?}"
    );
    child.end();
}

/// A process can confine a child and use the identity that the child gets.
#[tokio::test]
async fn of_a_cgroup_is_said_what_holds_for_all_of_its_processes() {
    let Some(cgroup) = Cgroup::new("countersign-family") else {
        return;
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (Some(confined), Some(free)) = (
        started_by(one.path(), &NOBODY),
        started_by(two.path(), &["env"]),
    ) else {
        return;
    };
    cgroup.add(confined.pid());
    let below = cgroup.below("b");
    below.add(free.pid());
    let said = async || {
        let selectors = attested(&confined).await.unwrap();
        [
            "no_new_privs:true",
            "cgroup:no_new_privs:true",
            "cgroup:capabilities:none",
        ]
        .map(|value| has(&selectors, &format!("confinement:{value}")))
    };
    assert_eq!(said().await, [true, false, false]);
    free.end();
    assert_eq!(said().await, [true, true, true]);
    confined.end();
}
