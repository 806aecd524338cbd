//! The harness of the end-to-end tests: real daemons and workloads as processes of their own, each test with its own
//! folder, ports and trust domain, and nothing left behind.
//!
//! `cargo test` does not build the binaries of other packages, so [`node`](../node/index.html) is one program that is
//! server, node agent and workload by its first argument, over the same library mains as the shipped binaries.

pub mod deployment;
pub mod peer;
pub mod process;
pub mod scripted_workload;
pub mod source;
