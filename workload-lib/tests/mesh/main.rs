//! The cases of the specification's section 10, through the real layers over real mutual TLS, and joining by a real
//! Workload API.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and its helpers are part of it"
)]

mod agent;
mod case_01_to_04;
mod case_05_to_07;
mod case_08_to_11;
mod case_12_to_14;
mod case_15_to_16;
mod forge;
mod grpc;
mod join;
mod removed_authority;
mod wire;
mod world;
