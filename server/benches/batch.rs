//! How many X.509-SVIDs a server issues over the network, beside what the cores could do at best: checking the signature
//! of a CSR and signing a certificate, and nothing else.
//!
//! Two ratios are printed. That of the rates is what counts on a machine that does nothing else; that of the processors'
//! time per SVID, client included, says nearly the same, and holds also where other programs take their share.
//!
//! A real server runs in a process of its own. Some node agents, each on a connection of its own, have CSRs signed by
//! `BatchNewX509SVID` over mutual TLS, in batches as large as they may be; what these clients cost is part of what is
//! measured. Both sides take turns, so that whatever else the machine does meanwhile hits them alike.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark ends at the first fault and prints what it measured"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign_identity::csr::Csr;
use countersign_identity::key::{KeyType, PrivateKey};
use countersign_proto::spire::api::server::entry::v1 as entry;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::server::svid::v1 as svid;
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::types;
use tonic::transport::Channel;

use bare::Bare;
use server::{Server, TRUST_DOMAIN};

#[path = "support/bare.rs"]
mod bare;
#[path = "support/server.rs"]
mod server;

/// The most CSRs of one batch.
const BATCH: usize = 500;
/// How many node agents ask.
const AGENTS: usize = 4;
/// How many batches each of them has on their way at once.
const AT_ONCE: usize = 2;
/// How long one turn of one side is, and how many there are.
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 8;
/// How many SVIDs a core should be able to issue of what it could at best.
const GOAL: f64 = 0.7;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only wants to see that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let turns = if quick { 1 } else { TURNS };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let server = Server::start().await;
    let mut agents = Vec::with_capacity(AGENTS);
    for _ in 0..AGENTS {
        let (agent, path) = server.agent().await;
        agents.push((agent, request(server.admin().await, &path).await));
    }
    let mut issued = Rate::default();
    let mut bare = Rate::default();
    let processes = [PathBuf::from("/proc/self"), server.process()];
    for _ in 0..turns {
        bare.add(&processes, || std::future::ready(bare_turn(cores)))
            .await;
        issued.add(&processes, || server_turn(&agents)).await;
    }
    println!(
        "BatchNewX509SVID over mTLS: {:.0}/s; bare cryptography on {cores} cores: {:.0}/s; ratio {:.2} (goal {GOAL})",
        issued.per_second(),
        bare.per_second(),
        issued.per_second() / bare.per_second(),
    );
    println!(
        "processors' time: {:.1} us per SVID, client included; bare {:.1} us; ratio {:.2}; server: {:.0} MiB resident",
        issued.processor_micros(),
        bare.processor_micros(),
        bare.processor_micros() / issued.processor_micros(),
        server.resident()
    );
}

/// What was done in which time.
#[derive(Default)]
struct Rate {
    done: usize,
    time: Duration,
    /// What the processors gave to it.
    processor: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
impl Rate {
    async fn add<F: Future<Output = (usize, Duration)>>(
        &mut self,
        processes: &[PathBuf],
        turn: impl FnOnce() -> F,
    ) {
        let before = processor_time(processes);
        let (done, time) = turn().await;
        self.done += done;
        self.time += time;
        self.processor += processor_time(processes) - before;
    }

    fn per_second(&self) -> f64 {
        self.done as f64 / self.time.as_secs_f64()
    }

    fn processor_micros(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.done as f64
    }
}

/// How long the processors worked for these processes so far.
fn processor_time(processes: &[PathBuf]) -> Duration {
    // Linux counts in hundredths of a second here, whatever the kernel's own clock.
    let ticks = processes.iter().map(|process| {
        let stat = std::fs::read_to_string(process.join("stat")).expect("the status of a process");
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields = fields.split_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum::<u64>()
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn bare_turn(cores: usize) -> (usize, Duration) {
    let start = Instant::now();
    let done = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let bare = Bare::new();
                while start.elapsed() < TURN {
                    bare.check_and_sign();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (done.load(Ordering::Relaxed), start.elapsed())
}

async fn server_turn(agents: &[(Channel, svid::BatchNewX509svidRequest)]) -> (usize, Duration) {
    let start = Instant::now();
    let streams = agents
        .iter()
        .cycle()
        .take(AGENTS * AT_ONCE)
        .map(|(agent, request)| {
            let mut client = SvidClient::new(agent.clone());
            let request = request.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while start.elapsed() < TURN {
                    let answer = client.batch_new_x509svid(request.clone()).await;
                    let results = answer.expect("an answer").into_inner().results;
                    assert!(results.iter().all(|result| result.svid.is_some()));
                    done += results.len();
                }
                done
            })
        });
    let mut done = 0;
    for stream in streams.collect::<Vec<_>>() {
        done += stream.await.expect("a client");
    }
    (done, start.elapsed())
}

/// As many CSRs as go into one batch, for an entry of this node agent.
async fn request(admin: Channel, path: &str) -> svid::BatchNewX509svidRequest {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.to_owned(),
            path: path.to_owned(),
        })
    };
    let create = entry::BatchCreateEntryRequest {
        entries: vec![types::Entry {
            spiffe_id: id("/agents/planner"),
            parent_id: id(path),
            selectors: vec![types::Selector {
                r#type: "unix".to_owned(),
                value: "uid:1000".to_owned(),
            }],
            ..types::Entry::default()
        }],
        output_mask: None,
    };
    let made = EntryClient::new(admin)
        .batch_create_entry(create)
        .await
        .expect("an entry")
        .into_inner();
    let made = made.results.into_iter().next().and_then(|item| item.entry);
    let entry_id = made.expect("an entry").id;
    let params = (0..BATCH).map(|_| {
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        svid::NewX509svidParams {
            entry_id: entry_id.clone(),
            csr: Csr::make(&key, None).expect("a CSR").into(),
        }
    });
    svid::BatchNewX509svidRequest {
        params: params.collect(),
    }
}
