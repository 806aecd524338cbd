//! The Countersign node agent: attests its node and serves X.509-SVIDs to workloads over the SPIFFE Workload API.

pub mod limits;
mod pem;
pub mod selectors;
pub mod storage;
pub mod sync;

#[cfg(test)]
mod test_ca;
