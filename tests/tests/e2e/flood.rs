//! A workload that attacks the socket which it shares with all others: floods of HTTP/2 frames of each kind, requests and
//! connections that are begun and never ended. The others are served, and the node agent's memory stays where it was.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, Settings};
use countersign_tests::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::NODE;

/// How often another workload asks while each attack goes on.
const ROUNDS: usize = 5;
/// Connections of an attack at once: some beyond what a process may have.
const CONNECTIONS: usize = 140;
/// What the node agent may hold more than before, in KiB: 64 connections of a process, each with 72 requests of 8 KiB on
/// their way to being refused, and as much again for what they are read into.
const ROOM: u64 = 96 * 1024;

/// Streams that a process may have.
const STREAMS: u32 = 64;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What an attack sends, over and over; `number` counts how often.
type Attack = fn(number: u32) -> Vec<u8>;

const ATTACKS: [(&str, Attack); 9] = [
    ("streams that are begun and reset", |number| {
        let id = stream_id(number);
        let begun = frame(HEADERS, END_HEADERS, id, &request());
        [begun, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
    }),
    ("requests that never end", |number| {
        let id = stream_id(number);
        let begun = frame(HEADERS, END_HEADERS, id, &request());
        [begun, frame(DATA, 0, id, &[0, 0, 0, 0, 200])].concat()
    }),
    ("settings", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])),
    ("pings", |_| frame(PING, 0, 0, &[7; 8])),
    ("windows", |_| {
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())
    }),
    ("headers that never end", |number| match number {
        0 => frame(HEADERS, 0, 1, &request()),
        _ => frame(CONTINUATION, 0, 1, &field("x-more", &"y".repeat(16_000))),
    }),
    ("headers of many streams, as large as may be", |number| {
        let large = field("x-large", &"z".repeat(7_000));
        let block = [request(), large].concat();
        frame(HEADERS, END_HEADERS, stream_id(number), &block)
    }),
    ("empty pieces of a message", |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &request()),
        _ => frame(DATA, 0, 1, &[]),
    }),
    ("bytes of no protocol", |_| vec![0xff; 4096]),
];

fn stream_id(number: u32) -> u32 {
    number.wrapping_mul(2).wrapping_add(1) & 0x7fff_ffff
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., high, middle, low] = payload.len().to_be_bytes();
    let head = [high, middle, low, kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// A field of a header block, in full.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        // An integer with a prefix of seven bits (RFC 7541, 5.1), of at most three octets.
        let rest = text.len().saturating_sub(127);
        let octets = [text.len().min(127), rest & 127 | 128, rest >> 7];
        let used = if text.len() < 127 { 1 } else { 3 };
        let octets = octets.iter().take(used).map(|octet| octet.to_be_bytes());
        block.extend(octets.filter_map(|bytes| bytes.last().copied()));
        block.extend(text.as_bytes());
    }
    block
}

/// The header block of a request for SVIDs.
fn request() -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("workload.spiffe.io", "true"),
    ]
    .concat()
}

/// Attacks on a connection of its own, and on a new one whenever that is closed; never reads what comes.
async fn attack(socket: PathBuf, what: Attack) {
    loop {
        let Ok(mut stream) = UnixStream::connect(&socket).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        if stream.write_all(&begun).await.is_err() {
            continue;
        }
        for number in 0.. {
            if stream.write_all(&what(number)).await.is_err() {
                break;
            }
        }
    }
}

/// The memory of a process, in KiB.
fn resident(process: &Process) -> anyhow::Result<u64> {
    let pid = process.pid().context("it does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no line VmRSS")?.parse()?)
}

#[tokio::test]
async fn a_flood_leaves_others_served_and_memory_bounded() -> anyhow::Result<()> {
    let deployment = Deployment::start(NODE, Settings::default()).await?;
    let workload = deployment.register("/workload", &[]).await?;
    deployment.fetched(&workload).await?;
    let agent = deployment.agent.as_ref().context("no agent")?;
    let before = resident(agent)?;
    for (name, what) in ATTACKS {
        let mut attackers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            attackers.spawn(attack(deployment.agent_socket(), what));
        }
        for round in 0..ROUNDS {
            let told = deployment.fetched(&workload).await;
            told.with_context(|| format!("{name}, round {round}"))?;
        }
        let with = resident(agent)?;
        attackers.shutdown().await;
        ensure!(
            with < before + ROOM,
            "{name}: {before} KiB before, {with} KiB with it"
        );
    }
    ensure!(!agent.output().contains("panicked"), "{}", agent.output());
    Ok(())
}

#[tokio::test]
async fn idle_connections_leave_room_for_others() -> anyhow::Result<()> {
    let deployment = Deployment::start(NODE, Settings::default()).await?;
    let workload = deployment.register("/workload", &[]).await?;
    let mut held = Vec::new();
    for first_bytes in [&b""[..], b"PRI * HTTP", PREFACE] {
        for _ in 0..CONNECTIONS {
            let mut stream = UnixStream::connect(deployment.agent_socket()).await?;
            drop(stream.write_all(first_bytes).await);
            held.push(stream);
        }
        deployment.fetched(&workload).await?;
    }
    Ok(())
}

/// A stream that is not read holds one answer, however often its content changes.
#[tokio::test]
async fn unread_streams_delay_no_other_caller() -> anyhow::Result<()> {
    let deployment = Deployment::start(NODE, Settings::default()).await?;
    let own = format!("spiffe://{}/silent", deployment.trust_domain());
    let program = std::env::current_exe()?;
    deployment.entry(&own, &program, &[]).await?;
    let workload = deployment.register("/workload", &[]).await?;
    deployment.fetched(&workload).await?;
    let mut silent = silent_streams(&deployment.agent_socket()).await?;
    for number in 0..ROUNDS {
        let another = deployment
            .register(&format!("/another-{number}"), &[])
            .await?;
        deployment.fetched(&another).await?;
    }
    // They were all answered, as far as there was room, and are open still.
    silent.write_all(&frame(PING, 0, 0, &[7; 8])).await?;
    let mut begun = 0;
    loop {
        match kind_of_next(&mut silent).await? {
            HEADERS => begun += 1,
            PING => break,
            _ => {}
        }
    }
    ensure!(begun == STREAMS, "{begun} of {STREAMS} were answered");
    Ok(())
}

/// The kind of the next frame; what it holds is skipped.
async fn kind_of_next(stream: &mut UnixStream) -> anyhow::Result<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    stream
        .read_exact(&mut vec![0; usize::try_from(length)?])
        .await?;
    Ok(kind)
}

/// As many streams as a process may have, all on one connection without a window for any answer.
async fn silent_streams(socket: &Path) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(PREFACE).await?;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    stream.write_all(&settings).await?;
    for number in 0..STREAMS {
        let id = stream_id(number);
        let begun = frame(HEADERS, END_HEADERS, id, &request());
        let message = frame(DATA, 1, id, &[0; 5]);
        stream.write_all(&[begun, message].concat()).await?;
    }
    Ok(stream)
}
