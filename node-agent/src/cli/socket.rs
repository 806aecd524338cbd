//! `-socketPath`, and what stands in for it.

use std::path::PathBuf;

use clap::Args;
use countersign_transport::error::Chain;

use super::error::CommandError;
use crate::config::DEFAULT_SOCKET;
use crate::workload_client::WorkloadClient;

const SOCKET_VARIABLE: &str = "SPIRE_AGENT_PUBLIC_SOCKET";
const TEMPLATE_VARIABLE: &str = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE";
/// Where workloads look (SPIFFE Workload Endpoint, section 4).
const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// What stands for the instance in the template.
const INSTANCE: &str = "%i";

/// Where the Workload API is.
#[derive(Debug, Clone, Args)]
pub(super) struct SocketFlag {
    /// Path to the Workload API socket [default: /tmp/spire-agent/public/api.sock, or what the environment variables
    /// SPIRE_AGENT_PUBLIC_SOCKET and SPIFFE_ENDPOINT_SOCKET say, the first one first]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// Instance name, put in place of %i in the environment variable SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
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
        self.path_in(|name| std::env::var(name).ok())
    }

    fn path_in(&self, variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, CommandError> {
        if let Some(path) = &self.socket_path {
            return socket_path(path);
        }
        let Some(instance) = &self.instance else {
            let named = |name| variable(name).filter(|path| !path.is_empty());
            let path = named(SOCKET_VARIABLE).or_else(|| named(ENDPOINT_VARIABLE));
            return socket_path(path.as_deref().unwrap_or(DEFAULT_SOCKET));
        };
        let template = variable(TEMPLATE_VARIABLE).unwrap_or_default();
        if !template.contains(INSTANCE) {
            return Err(CommandError::Answer(format!(
                "-instance needs the environment variable {TEMPLATE_VARIABLE}, with a {INSTANCE} in it"
            )));
        }
        socket_path(&template.replace(INSTANCE, instance))
    }

    pub(super) async fn connect(&self) -> Result<WorkloadClient, CommandError> {
        let client = WorkloadClient::connect(&self.path()?).await;
        client.map_err(|source| {
            tracing::debug!(error = %Chain(&source), "No connection to the Workload API");
            CommandError::Dial { source }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_flag_precedes_the_instance_and_the_environment() {
        let environment = |name: &str| match name {
            SOCKET_VARIABLE => Some("/env.sock".to_owned()),
            ENDPOINT_VARIABLE => Some("unix:///endpoint.sock".to_owned()),
            TEMPLATE_VARIABLE => Some("/run/%i/api.sock".to_owned()),
            _ => None,
        };
        let flag = |socket_path: Option<&str>, instance: Option<&str>| SocketFlag {
            socket_path: socket_path.map(Into::into),
            instance: instance.map(Into::into),
        };
        let path = |flag: SocketFlag| flag.path_in(environment).unwrap();
        assert_eq!(
            path(flag(Some("/flag.sock"), Some("a"))),
            Path::new("/flag.sock")
        );
        assert_eq!(path(flag(None, Some("a"))), Path::new("/run/a/api.sock"));
        assert_eq!(path(flag(None, None)), Path::new("/env.sock"));
        let endpoint = |name: &str| environment(name).filter(|_| name == ENDPOINT_VARIABLE);
        let bare = flag(None, None);
        assert_eq!(bare.path_in(endpoint).unwrap(), Path::new("/endpoint.sock"));
        assert_eq!(bare.path_in(|_| None).unwrap(), Path::new(DEFAULT_SOCKET));
        assert!(flag(None, Some("a")).path_in(|_| None).is_err());
    }
}
