//! How a verb calls the server: the flags of every verb, and the connection to the admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_config::DEFAULT_SERVER_SOCKET;
use countersign_daemon::cli::{Output, OutputFlag};
use countersign_proto::grpc::health::v1::health_client::HealthClient;
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use countersign_proto::spire::api::server::logger::v1::logger_client::LoggerClient;
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use countersign_transport::dial::{Cause, UnixConnector};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::error::CommandError;
use crate::flag::{InvalidFlag, given};

/// The longest answer that is taken, in bytes: many pages of entries.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long a verb waits for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
const SOCKET_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET";
const TEMPLATE_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE";
/// The placeholder of the instance in the template.
const INSTANCE: &str = "%i";

/// The flags of every verb: how it prints, and where the server is.
#[derive(Debug, clap::Args)]
pub(crate) struct CallFlags {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl CallFlags {
    /// Whether the answer is printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.output.output == Output::Json
    }

    /// Connects.
    ///
    /// # Errors
    /// The server can't be reached; the error says what to do.
    pub(crate) async fn connect(&self) -> Result<Client, CommandError> {
        let socket = self.socket.path(|name| std::env::var(name).ok())?;
        let connector = UnixConnector::new(&socket);
        // Only the URI's authority counts, and gRPC for Go sends this one for Unix sockets.
        let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| unreachable(&socket, &error))?;
        Ok(Client { channel, socket })
    }
}

/// Where the server's admin socket is.
#[derive(Debug, clap::Args)]
struct SocketFlag {
    /// Path to the server's API socket [default: /tmp/spire-server/private/api.sock, or what the environment variable
    /// SPIRE_SERVER_PRIVATE_SOCKET says]
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<PathBuf>,
    /// Instance name, put in place of %i in the environment variable SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

impl SocketFlag {
    fn path(&self, variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, InvalidFlag> {
        if let Some(path) = &self.socket_path {
            return Ok(path.clone());
        }
        let Some(instance) = &self.instance else {
            let path = given(variable(SOCKET_VARIABLE));
            return Ok(path.unwrap_or_else(|| DEFAULT_SERVER_SOCKET.into()).into());
        };
        let template = variable(TEMPLATE_VARIABLE).unwrap_or_default();
        if !template.contains(INSTANCE) {
            return Err(InvalidFlag::Instance {
                variable: TEMPLATE_VARIABLE,
                placeholder: INSTANCE,
            });
        }
        Ok(template.replace(INSTANCE, instance).into())
    }
}

fn unreachable(socket: &Path, error: &(dyn std::error::Error + 'static)) -> CommandError {
    CommandError::Unreachable {
        socket: socket.to_owned(),
        cause: Cause::of(error),
    }
}

/// A connection to the server.
pub(crate) struct Client {
    channel: Channel,
    socket: PathBuf,
}

impl Client {
    pub(crate) fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn bundle(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn debug(&self) -> DebugClient<Channel> {
        DebugClient::new(self.channel.clone())
    }

    pub(crate) fn entry(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn trust_domain(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    pub(crate) fn local_authority(&self) -> LocalAuthorityClient<Channel> {
        LocalAuthorityClient::new(self.channel.clone())
    }

    pub(crate) fn svid(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel.clone())
    }

    pub(crate) fn logger(&self) -> LoggerClient<Channel> {
        LoggerClient::new(self.channel.clone())
    }

    /// Waits for the answer of a call, and tells a server that went away from one that refused.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CommandError> {
        match call.await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if Cause::of(&status).is_some() => Err(unreachable(&self.socket, &status)),
            Err(status) => Err(status.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(socket_path: Option<&str>, instance: Option<&str>) -> SocketFlag {
        SocketFlag {
            socket_path: socket_path.map(Into::into),
            instance: instance.map(Into::into),
        }
    }

    #[test]
    fn the_flag_wins_over_the_instance_and_the_environment() {
        let environment = |name: &str| match name {
            SOCKET_VARIABLE => Some("/env.sock".to_owned()),
            TEMPLATE_VARIABLE => Some("/run/%i/api.sock".to_owned()),
            _ => None,
        };
        let path = |flag: SocketFlag| flag.path(environment).unwrap();
        assert_eq!(
            path(flag(Some("/flag.sock"), Some("a"))),
            Path::new("/flag.sock")
        );
        assert_eq!(path(flag(None, Some("a"))), Path::new("/run/a/api.sock"));
        assert_eq!(path(flag(None, None)), Path::new("/env.sock"));
        assert_eq!(
            flag(None, None).path(|_| None).unwrap(),
            Path::new(DEFAULT_SERVER_SOCKET)
        );
        assert!(flag(None, Some("a")).path(|_| None).is_err());
    }
}
