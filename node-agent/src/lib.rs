//! The Countersign node agent: attests its node and serves X.509-SVIDs to workloads over the SPIFFE Workload API.
//!
//! A program more than a library: public are the program itself, and what end-to-end tests, benchmarks and fuzz targets
//! call.

mod api;
mod cli;
mod client;
mod config;
mod daemon;
mod entry;
mod jwt;
mod limits;
pub mod metrics;
mod node;
mod node_attestor;
mod pem;
mod rotation;
mod signatures;
mod skew;
mod storage;
mod svid;
mod sync;
mod workload_attestor;
pub mod workload_client;

#[cfg(test)]
mod test_ca;
#[cfg(test)]
mod test_note;
#[cfg(test)]
mod test_server;

/// The verbs and flags of the command line.
#[must_use]
pub fn command() -> clap::Command {
    cli::command()
}

/// Runs the program with these arguments, the first of which is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    cli::main(args)
}

/// The parsers of foreign input, for the targets in `tests/fuzz` only. Not an API.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::api::{Sources, admin, public};
    pub use crate::config::{AgentConfig, ApiConfig, Overrides, SdsConfig, VerifierConfig};
    pub use crate::entry::{AuthorizedEntry, Delivery};
    pub use crate::jwt::JwtSvids;
    pub use crate::node_attestor::BundleFormat;
    pub use crate::storage::svids::{Kept, SvidStore, read_plain, write_plain};
    pub use crate::storage::{NodeIdentity, NodeState, read_state, write_state};
    pub use crate::svid::ServedSvid;
    pub use crate::sync::{EntrySource, Feed, ServedEntry, Snapshot};
    pub use crate::workload_attestor::Attestors;

    /// The `unix` attestor alone, without a look at the caller's executable.
    #[must_use]
    pub fn user_attestors() -> Attestors {
        use crate::workload_attestor::{Discover, Unix};

        Attestors::new(vec![std::sync::Arc::new(Unix::new(Discover::UsersOnly))])
    }
}
