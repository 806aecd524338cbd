//! The Countersign server: attests node agents, keeps registration entries, issues X.509-SVIDs.

pub mod authority;
pub mod config;
pub mod keymanager;
pub mod limits;
pub mod store;
