//! The Countersign server: attests node agents, keeps registration entries, issues X.509-SVIDs.

pub mod api;
pub mod attestor;
mod cli;
pub mod config;
pub mod daemon;
pub mod federation;
pub mod jobs;
pub mod limits;
pub mod metrics;
pub mod registry;

pub use cli::{command, main};
