//! What the number of entries costs: making them, listing them, syncing those of one node agent, and memory.
//!
//! A real server with its store on the disk runs in a process of its own. It is filled up to 1,000, 10,000 and 100,000
//! entries by `BatchCreateEntry`, of which one node agent may have 10; that agent's sync goes over mutual TLS, and should
//! cost the same however many entries there are for others.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark ends at the first fault and prints what it measured"
)]

use std::time::{Duration, Instant};

use countersign_proto::spire::api::server::entry::v1 as entry;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::types;
use tonic::transport::Channel;

use server::{Server, TRUST_DOMAIN};

#[path = "support/server.rs"]
mod server;

/// How many entries there are.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// How many of them the node agent may have.
const MINE: usize = 10;
/// How many entries one request makes.
const BATCH: usize = 1_000;
/// How often each call is made; the median counts.
const CALLS: usize = 101;
/// What a page holds: what SPIRE's command line asks for.
const PAGE: i32 = 500;
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 20;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only wants to see that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let sizes = SIZES.iter().take(if quick { 1 } else { SIZES.len() });
    let server = Server::start().await;
    let (agent, path) = server.agent().await;
    let mut admin = EntryClient::new(server.admin().await).max_decoding_message_size(MAX_ANSWER);
    println!("empty: {:.0} MiB resident", server.resident());
    println!(
        "{:>8} {:>12} {:>12} {:>14} {:>14} {:>12} {:>10} {:>10}",
        "entries",
        "create, us",
        "page, us",
        "by parent, us",
        "by selector,us",
        "sync, us",
        "sync/1000",
        "MiB"
    );
    let mut made = 0;
    let mut first_sync = None;
    for &size in sizes {
        let create = fill(&mut admin, &path, made, size).await;
        made = size;
        let page = list(&mut admin, None).await;
        let by_parent = list(&mut admin, Some(parent_filter())).await;
        let by_selector = list(&mut admin, Some(selector_filter())).await;
        let sync = sync(&agent).await;
        let first = *first_sync.get_or_insert(sync);
        println!(
            "{size:>8} {:>12.1} {:>12.0} {:>14.0} {:>14.0} {:>12.0} {:>10.2} {:>10.0}",
            micros(create),
            micros(page),
            micros(by_parent),
            micros(by_selector),
            micros(sync),
            micros(sync) / micros(first),
            server.resident()
        );
    }
}

/// Makes entries until there are so many; the time per entry.
async fn fill(client: &mut EntryClient<Channel>, path: &str, from: usize, to: usize) -> Duration {
    let start = Instant::now();
    let mut next = from;
    while next < to {
        let end = to.min(next + BATCH);
        let request = entry::BatchCreateEntryRequest {
            entries: (next..end).map(|n| one(n, path)).collect(),
            output_mask: Some(types::EntryMask::default()),
        };
        let answer = client.batch_create_entry(request).await.expect("entries");
        for result in answer.into_inner().results {
            assert_eq!(result.status.expect("a status").code, 0);
        }
        next = end;
    }
    let made = u32::try_from(to - from).expect("a number");
    start.elapsed() / made
}

/// The n-th entry: the first few are the node agent's, ten of the others are below each node.
fn one(n: usize, agent: &str) -> types::Entry {
    let parent = if n < MINE {
        agent.to_owned()
    } else {
        format!("/node/{}", n / 10)
    };
    types::Entry {
        spiffe_id: id(format!("/tenant/{}/workload/{n}", n % 100)),
        parent_id: id(parent),
        selectors: vec![
            selector(format!("uid:{}", 1_000 + n % 1_000)),
            selector(format!("path:/opt/workloads/{}", n % 200)),
        ],
        ..types::Entry::default()
    }
}

fn id(path: String) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path,
    })
}

fn selector(value: String) -> types::Selector {
    types::Selector {
        r#type: "unix".to_owned(),
        value,
    }
}

fn parent_filter() -> entry::list_entries_request::Filter {
    entry::list_entries_request::Filter {
        by_parent_id: id("/node/50".to_owned()),
        ..Default::default()
    }
}

/// One entry in a thousand.
fn selector_filter() -> entry::list_entries_request::Filter {
    entry::list_entries_request::Filter {
        by_selectors: Some(types::SelectorMatch {
            selectors: vec![selector("uid:1500".to_owned())],
            r#match: types::selector_match::MatchBehavior::MatchSuperset.into(),
        }),
        ..Default::default()
    }
}

/// One page.
async fn list(
    client: &mut EntryClient<Channel>,
    filter: Option<entry::list_entries_request::Filter>,
) -> Duration {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let request = entry::ListEntriesRequest {
            filter: filter.clone(),
            page_size: PAGE,
            ..Default::default()
        };
        let start = Instant::now();
        let page = client.list_entries(request).await.expect("a page");
        times.push(start.elapsed());
        assert!(!page.into_inner().entries.is_empty());
    }
    median(times)
}

/// One sync, as a real node agent does it.
async fn sync(agent: &Channel) -> Duration {
    let mask = types::EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..Default::default()
    };
    let mut client = EntryClient::new(agent.clone());
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let first = entry::SyncAuthorizedEntriesRequest {
            output_mask: Some(mask),
            ids: Vec::new(),
        };
        let start = Instant::now();
        let mut answers = client
            .sync_authorized_entries(tokio_stream::once(first))
            .await
            .expect("a sync")
            .into_inner();
        let page = answers.message().await.expect("a page").expect("a page");
        assert!(answers.message().await.expect("an end").is_none());
        times.push(start.elapsed());
        assert_eq!(page.entries.len(), MINE);
    }
    median(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
