//! `-socketPath`, and what stands in for it.

use std::path::PathBuf;

use clap::Args;
use countersign_runtime::error::Chain;

use super::error::CommandError;
use crate::config::DEFAULT_SOCKET;
use crate::workload_client::WorkloadClient;

/// Where the Workload API is.
#[derive(Debug, Clone, Args)]
pub(super) struct SocketFlag {
    /// Path to the Workload API socket; without it SPIFFE_ENDPOINT_SOCKET counts
    #[arg(long = "socketPath", env = "SPIFFE_ENDPOINT_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket_path: String,
}

/// A path, or such a path as a URI.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, CommandError> {
    let bare = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .unwrap_or(text);
    if bare.is_empty() || bare.contains("://") {
        return Err(CommandError::Address(text.to_owned()));
    }
    Ok(PathBuf::from(bare))
}

impl SocketFlag {
    pub(super) fn path(&self) -> Result<PathBuf, CommandError> {
        socket_path(&self.socket_path)
    }

    pub(super) async fn connect(&self) -> Result<WorkloadClient, CommandError> {
        let client = WorkloadClient::connect(&self.path()?).await;
        client.map_err(|source| {
            tracing::debug!(error = %Chain(&source), "no connection");
            CommandError::Dial { source }
        })
    }
}
