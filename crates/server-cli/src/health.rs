//! `healthcheck`.

use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use crate::client::SocketFlag;
use crate::error::CommandError;
use crate::json;

/// `healthcheck`.
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 if the server is well, and with 1 if it is not or can't be reached:\n  \
    countersign-server healthcheck -socketPath /run/server/api.sock"
)]
pub(crate) struct Healthcheck {
    /// Taken for SPIRE's sake: there is one kind of health check
    #[arg(long, hide = true)]
    shallow: bool,
    /// Print verbose information
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl Healthcheck {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let pretty = self.output.output == Output::Pretty;
        if self.verbose && pretty {
            printer.line("Checking server health...");
        }
        let response = self
            .check()
            .await
            .map_err(|error| CommandError::HealthUnknown(Box::new(error)))?;
        if !pretty {
            json::print(printer, "grpc.health.v1.HealthCheckResponse", &response)?;
        }
        match response.status() {
            ServingStatus::Serving if pretty => printer.line("Server is healthy."),
            ServingStatus::Serving => {}
            other => {
                let status = format!("server returned status {:?}", other.as_str_name());
                return Err(CommandError::Unhealthy(status));
            }
        }
        Ok(())
    }

    async fn check(&self) -> Result<HealthCheckResponse, CommandError> {
        let client = self.socket.connect().await?;
        let request = HealthCheckRequest {
            service: String::new(),
        };
        client.answer(client.health().check(request).await)
    }
}
