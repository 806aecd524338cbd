//! End to end, over real processes: server, node agent and workloads, as an operator would run them.
//!
//! Some tests repeat what they do; `COUNTERSIGN_TEST_ROUNDS=100` makes them repeat it a hundred times.

mod crash;
mod disk;
mod fault;
mod federation;
mod flood;
mod guide;
mod join_token;
mod mesh;
mod metrics;
mod nested;
mod operate;
mod otlp;
mod readme;
mod restart;
mod rotation;
mod socket;

/// The program that is server, node agent and workload.
const NODE: &str = env!("CARGO_BIN_EXE_node");

/// How often to repeat, unless the environment says otherwise.
fn rounds(default: usize) -> usize {
    std::env::var("COUNTERSIGN_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}
