//! `healthcheck`.

use clap::Args;
use countersign_daemon::cli::Printer;
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use crate::client::CallFlags;
use crate::error::CommandError;
use crate::json;

/// `healthcheck`.
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 if the server is healthy, and with 1 if it is not or can't be reached:\n  \
    countersign-server healthcheck -socketPath /run/server/api.sock"
)]
pub(crate) struct Healthcheck {
    /// Accepted for SPIRE's scripts: there is one kind of health check
    #[arg(long, hide = true)]
    shallow: bool,
    /// Print verbose information
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    flags: CallFlags,
}

impl Healthcheck {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let json = self.flags.json();
        if self.verbose && !json {
            printer.line("Checking server health...");
        }
        let checked = self.check().await;
        let response = checked.map_err(|error| CommandError::HealthUnknown(Box::new(error)))?;
        if json {
            json::print(printer, &response)?;
        }
        match response.status() {
            ServingStatus::Serving if json => Ok(()),
            ServingStatus::Serving => {
                printer.line("Server is healthy.");
                Ok(())
            }
            other => Err(CommandError::Unhealthy(other.as_str_name())),
        }
    }

    async fn check(&self) -> Result<HealthCheckResponse, CommandError> {
        let client = self.flags.connect().await?;
        let request = HealthCheckRequest {
            service: String::new(),
        };
        client.call(client.health().check(request)).await
    }
}
