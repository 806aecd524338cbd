//! The Countersign server: attests node agents, keeps registration entries, issues X.509-SVIDs.

pub mod api;
pub mod attestor;
pub mod authority;
mod cli;
pub mod config;
pub mod daemon;
pub mod federation;
pub mod keymanager;
pub mod limits;
pub mod metrics;
pub mod registry;
pub mod store;
pub mod upstream;

pub use cli::{command, main};
