//! The Countersign server: attests node agents, keeps registration entries, issues X.509-SVIDs.

mod api;
mod cli;
mod config;
mod daemon;
pub mod embed;
mod federation;
mod index;
mod jobs;
mod limits;
mod metrics;
mod node_attestor;

pub use cli::{command, main};
