//! What it costs to issue one X.509-SVID, beside the bare cryptography that no implementation can leave out: checking the
//! signature of the CSR and signing the certificate.
//!
//! `cargo bench -p countersign-server` prints Criterion's figures and then one line with the ratio of the two, measured
//! in the same run.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark ends at the first fault and prints what it measured"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_ca::authority::{Authority, Rotation, Settings, WorkloadRequest};
use countersign_ca::keymanager::MemoryKeyManager;
use countersign_identity::csr::Csr;
use countersign_identity::entry::{AdditionalAttributes, EntryId};
use countersign_identity::issue::Subject;
use countersign_identity::key::{KeyType, PrivateKey};
use countersign_identity::{Entry, Selector, SelectorSet, TrustDomain};
use countersign_store::Store;
use countersign_transport::{Clock as _, SystemClock};
use criterion::{Criterion, Throughput};

use bare::Bare;

#[path = "support/bare.rs"]
mod bare;

/// As many as the server signs in one job, so that one core does the work.
const BATCH: u32 = 16;
/// How long each side is measured for the ratio.
const MEASURED: Duration = Duration::from_secs(3);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let authority = runtime.block_on(authority());
    let requests = requests();
    let mut issue = || {
        let answers = runtime.block_on(authority.sign_workloads(requests.clone()));
        assert!(answers.iter().all(Result::is_ok));
        black_box(answers);
    };
    let bare = Bare::new();
    let mut bare = || {
        for _ in 0..BATCH {
            bare.check_and_sign();
        }
    };

    let mut group = criterion.benchmark_group("x509-svid");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("issue from a CSR", |b| b.iter(&mut issue));
    group.bench_function("bare cryptography", |b| b.iter(&mut bare));
    group.finish();

    // `cargo test --benches` only wants to see that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (issue, bare) = (per_svid(&mut issue), per_svid(&mut bare));
    println!(
        "x509-svid: issue {:.1} us, bare cryptography {:.1} us, ratio {:.2}",
        issue * 1e6,
        bare * 1e6,
        issue / bare
    );
}

/// Seconds per SVID.
fn per_svid(batch: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut batches = 0_u32;
    while start.elapsed() < MEASURED {
        batch();
        batches += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(batches) / f64::from(BATCH)
}

async fn authority() -> Authority {
    let settings = Settings {
        trust_domain: TrustDomain::new("example.org").expect("a name"),
        ca_ttl: Duration::from_secs(24 * 60 * 60),
        ca_key_type: KeyType::EcP256,
        ca_subject: Subject::authority(),
        x509_svid_ttl: Duration::from_secs(60 * 60),
        agent_ttl: Duration::from_secs(60 * 60),
        jwt: None,
    };
    let keys = Arc::new(MemoryKeyManager::new());
    let rotation = Rotation::open(
        settings,
        keys,
        Store::in_memory(),
        "bench".into(),
        SystemClock::shared(),
    );
    rotation.await.expect("an authority").authority()
}

fn requests() -> Vec<WorkloadRequest> {
    let id = |path| {
        TrustDomain::new("example.org")
            .and_then(|td| td.id_with_path(path))
            .expect("an ID")
    };
    let entry = Arc::new(Entry {
        id: EntryId::new("entry").expect("an ID"),
        spiffe_id: id("/agents/planner"),
        parent_id: id("/spire/agent/join_token/t"),
        selectors: SelectorSet::from_iter([Selector::new("unix", "uid:1000").expect("a selector")]),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        revision_number: 0,
        created_at: SystemClock.now(),
        hint: String::new(),
        attributes: AdditionalAttributes::default(),
    });
    let csr = || {
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        Bytes::from(Csr::make(&key, Some(&entry.spiffe_id)).expect("a CSR"))
    };
    (0..BATCH)
        .map(|_| WorkloadRequest {
            entry: Arc::clone(&entry),
            csr_der: csr(),
        })
        .collect()
}
