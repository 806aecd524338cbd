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
mod canonical_form;
mod fixture;
mod forge;
mod forged_chain;
mod front_page;
mod grpc;
mod join;
mod loop_and_budget;
mod own_stack;
mod peer_identity;
mod removed_authority;
mod rotation_and_layer;
mod test_mesh;
mod wire;
