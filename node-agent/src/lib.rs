//! The Countersign node agent: attests its node and serves X.509-SVIDs to workloads over the SPIFFE Workload API.

pub mod api;
pub mod attest;
pub mod client;
pub mod limits;
pub mod node;
mod pem;
pub mod selectors;
pub mod skew;
pub mod storage;
pub mod sync;
mod wire;
pub mod workload_client;

#[cfg(test)]
mod test_ca;
