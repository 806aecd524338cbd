//! Other people's SPIFFE software against our server and node agent: go-spiffe, py-spiffe, java-spiffe, the `spiffe` and
//! `spiffe-rustls` crates, and Envoy.
//!
//! What is not installed is left out, and a line says so; with `COUNTERSIGN_INTEROP=required` it is a failure instead.
//! `COUNTERSIGN_INTEROP_PYTHON` names a Python that has the packages of `tests/interop/python/requirements.txt`,
//! `COUNTERSIGN_ENVOY` an Envoy.

mod envoy;
mod library;
mod peer;
mod tool;

/// The one program that is server, node agent and workload.
const NODE: &str = env!("CARGO_BIN_EXE_node");
