//! What a thousand workloads cost a node agent: memory, the time until all of them have something new, processor time at
//! rest, and how soon a workload has its first answer.
//!
//! Server and node agent are processes of their own, and so are the workloads: this program again, twenty times, each
//! with fifty connections over the real socket. Beside each time stands the bare limit of the same run: as many bytes
//! over as many sockets, with nothing behind them.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark ends at the first fault and prints what it measured"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_tests::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::sleep;

use stage::{EVERYBODY, Stage, group};
use workload::{ECHO, FIRST, RAW, STREAMS};

#[path = "streams/stage.rs"]
mod stage;
#[path = "streams/workload.rs"]
mod workload;

/// Processes that stand for workloads.
const PROCESSES: usize = 20;
/// Connections of each, with a stream each.
const EACH: usize = 50;
/// First answers that are timed, one after the other.
const FIRSTS: usize = 2_000;
/// How long the node agent is watched at rest: some syncs.
const REST: Duration = Duration::from_secs(20);
/// What the kernel counts processor time in: USER_HZ is 100 wherever this runs.
const TICK_MILLIS: f64 = 10.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A workload has one thread, as small programs do: what several of them make of each other is not measured here.
    let workload = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if !workload.block_on(workload::run(&args)) {
        measure(&args);
    }
}

#[tokio::main]
async fn measure(args: &[String]) {
    // `cargo test --benches` only wants to see that it runs.
    let quick = args.iter().any(|argument| argument == "--test");
    let (processes, firsts) = if quick { (2, 20) } else { (PROCESSES, FIRSTS) };
    let rest = if quick { Duration::from_secs(1) } else { REST };

    let stage = Stage::new(processes).await;
    println!("idle: {:.1} MiB resident", stage.agent.resident());
    first_answers(&stage, firsts).await;
    let without = stage.agent.resident();

    let (mut streams, opened) = open(&stage).await;
    let with = stage.agent.resident();
    println!(
        "resident: {without:.1} MiB without them, {with:.1} MiB with: {:.1} KiB per stream",
        (with - without) * 1024.0 / as_f64(processes * EACH)
    );

    stage.renew(EVERYBODY).await;
    let renewed = Told::by_all(&mut streams, 2).await;
    println!(
        "a new SVID for all: {:.1} ms from the first to the last; bare writes: {:.1} ms",
        renewed.spread(),
        bare_writes(&stage, opened.bytes).await.spread()
    );
    stage.renew(&group(0)).await;
    let (concerned, _) = streams.split_at_mut(1);
    let renewed = Told::by_all(concerned, 3).await;
    println!(
        "a new SVID for the {EACH} streams of one workload: {:.1} ms",
        renewed.spread()
    );

    let before = stage.agent.processor_time();
    sleep(rest).await;
    println!(
        "at rest, with all streams: {:.0} ms of processor time in {} s",
        stage.agent.processor_time() - before,
        rest.as_secs()
    );
    // Counted now, after all that time: nobody was woken for what concerns others.
    for (number, process) in streams.iter_mut().enumerate() {
        let expected = if number == 0 { 3 } else { 2 };
        process.enter("count").await.expect("a workload");
        let line = process.line("count ").await.expect("a count");
        assert_eq!(
            line,
            format!("count {expected} {expected}"),
            "workload {number}"
        );
    }
    println!("messages: 3 on each stream of the workload whose entry changed, 2 on all others");
}

/// Streams of all workloads, opened at once.
async fn open(stage: &Stage) -> (Vec<Process>, Told) {
    let mut streams = stage.workloads(STREAMS, &[&EACH.to_string()]);
    let begun = go(&mut streams).await;
    let opened = Told::by_all(&mut streams, 1).await;
    println!(
        "{} workloads at once, {} bytes for each: the first has its SVIDs after {:.1} ms, the last after {:.1} ms",
        streams.len() * EACH,
        opened.bytes,
        millis(opened.first.saturating_sub(begun)),
        millis(opened.last.saturating_sub(begun))
    );
    (streams, opened)
}

/// Lets the workloads go on once all are ready, and says when that was.
async fn go(processes: &mut [Process]) -> u128 {
    for process in &mut *processes {
        process.line("ready").await.expect("a workload");
    }
    let begun = workload::nanos();
    for process in processes {
        process.enter("go").await.expect("a workload");
    }
    begun
}

/// A new connection and its first answer, again and again, beside a new connection and an echo.
async fn first_answers(stage: &Stage, count: usize) {
    let echo = stage.deployment.folder().join("echo");
    let listener = UnixListener::bind(&echo).expect("a socket");
    let echoing = tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; workload::ECHO_BYTES];
                if caller.read_exact(&mut bytes).await.is_ok() {
                    drop(caller.write_all(&bytes).await);
                }
            });
        }
    });
    for (what, verb, socket) in [
        (
            "a new connection and its first answer",
            FIRST,
            &stage.deployment.agent_socket(),
        ),
        ("a new connection and an echo", ECHO, &echo),
    ] {
        let mut process = stage.workload(0, verb, socket, &[&count.to_string()]);
        let used = stage.agent.processor_time();
        go(std::slice::from_mut(&mut process)).await;
        let line = process.line("times ").await.expect("times");
        let used = (stage.agent.processor_time() - used) * 1e3 / as_f64(count);
        let micros: Vec<f64> = numbers(&line).map(as_micros).collect();
        let [p50, p99] = micros[..] else {
            panic!("two times were expected: {line}")
        };
        println!(
            "{what}: p50 {p50:.0} us, p99 {p99:.0} us; {used:.0} us of the node agent's processor time each"
        );
    }
    echoing.abort();
}

/// The same bytes on as many sockets, from one process to as many others as have streams.
async fn bare_writes(stage: &Stage, bytes: usize) -> Told {
    let path = stage.deployment.folder().join("bare");
    let listener = UnixListener::bind(&path).expect("a socket");
    let args = [EACH.to_string(), bytes.to_string()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut readers: Vec<Process> = (0..stage.processes())
        .map(|number| stage.workload(number, RAW, &path, &args))
        .collect();
    let mut sockets = Vec::new();
    while sockets.len() < readers.len() * EACH {
        sockets.push(listener.accept().await.expect("a reader").0);
    }
    go(&mut readers).await;
    let message = vec![7; bytes];
    for socket in &mut sockets {
        socket.write_all(&message).await.expect("a reader");
    }
    Told::by_all(&mut readers, 1).await
}

/// What the workloads were told in one round: each stream one message.
struct Told {
    /// When the first and the last had it, in nanoseconds.
    first: u128,
    last: u128,
    /// Of the largest message.
    bytes: usize,
}

impl Told {
    async fn by_all(processes: &mut [Process], round: usize) -> Self {
        let mut all = Self {
            first: u128::MAX,
            last: 0,
            bytes: 0,
        };
        for process in processes {
            let line = process
                .line(&format!("told {round} "))
                .await
                .expect("a message");
            let told: Vec<u128> = numbers(&line).collect();
            let [_, first, last, bytes] = told[..] else {
                panic!("four numbers were expected: {line}")
            };
            all.first = all.first.min(first);
            all.last = all.last.max(last);
            all.bytes = all.bytes.max(usize::try_from(bytes).expect("a size"));
        }
        all
    }

    /// From the first to the last, in milliseconds.
    fn spread(&self) -> f64 {
        millis(self.last.saturating_sub(self.first))
    }
}

fn numbers(line: &str) -> impl Iterator<Item = u128> {
    line.split(' ')
        .skip(1)
        .map(|number| number.parse().expect("a number"))
}

/// What the system says about a process.
struct Figures(PathBuf);

impl Figures {
    fn of(process: &Process) -> Self {
        let pid = process.pid().expect("a running process");
        Self(Path::new("/proc").join(pid.to_string()))
    }

    /// Memory in use, in MiB.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(self.0.join("status")).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.expect("a line VmRSS") / 1024.0
    }

    /// Processor time used so far, by itself and for it in the kernel, in milliseconds.
    fn processor_time(&self) -> f64 {
        let stat = std::fs::read_to_string(self.0.join("stat")).expect("a stat");
        let (_, after_command) = stat.rsplit_once(')').expect("a command");
        // What follows the command begins with field 3; user and system time are 14 and 15.
        let ticks = after_command.split_ascii_whitespace().skip(14 - 3).take(2);
        let ticks: f64 = ticks.map(|n| n.parse::<f64>().expect("a number")).sum();
        ticks * TICK_MILLIS
    }
}

fn millis(nanos: u128) -> f64 {
    as_micros(nanos) / 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times of seconds, for people to read"
)]
fn as_micros(nanos: u128) -> f64 {
    nanos as f64 / 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "small counts, for people to read"
)]
fn as_f64(count: usize) -> f64 {
    count as f64
}
