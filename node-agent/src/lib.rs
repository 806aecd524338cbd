//! The Countersign node agent: attests its node and serves X.509-SVIDs to workloads over the SPIFFE Workload API.

pub mod api;
pub mod attest;
mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod jwt;
pub mod limits;
pub mod metrics;
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
#[cfg(test)]
mod test_note;
#[cfg(test)]
mod test_server;

/// The verbs and flags, for whoever lists them.
#[must_use]
pub fn command() -> clap::Command {
    cli::command()
}

/// Runs the program with these arguments, the first of which is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    cli::main(args)
}
