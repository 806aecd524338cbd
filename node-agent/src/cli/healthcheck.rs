//! `healthcheck`.

use std::time::Duration;

use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::grpc::health::v1::health_check_response::ServingStatus;

use super::error::CommandError;
use super::socket::SocketFlag;

const PATIENCE: Duration = Duration::from_secs(10);

/// `healthcheck`.
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 if the node agent answers workloads, and with 1 if it does not or can't be reached:\n  \
    countersign-agent healthcheck -socketPath /run/agent/api.sock"
)]
pub(super) struct Healthcheck {
    #[command(flatten)]
    socket: SocketFlag,
    /// Taken for SPIRE's sake: there is one kind of health check
    #[arg(long, hide = true)]
    shallow: bool,
    /// Print verbose information
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Healthcheck {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let pretty = self.output.output == Output::Pretty;
        if self.verbose && pretty {
            printer.line("Checking agent health...");
        }
        let status = match self.status().await {
            Ok(status) => status,
            Err(error) => {
                if self.verbose {
                    printer.error_text(&format!("Failed to check health: {error}\n"));
                }
                return Err(CommandError::Unhealthy(
                    "unable to determine health".to_owned(),
                ));
            }
        };
        if !pretty {
            printer.line(serde_json::json!({ "status": status.as_str_name() }));
        }
        match status {
            ServingStatus::Serving => {
                if pretty {
                    printer.line("Agent is healthy.");
                }
                Ok(())
            }
            other => Err(CommandError::Unhealthy(format!(
                "agent returned status {:?}",
                other.as_str_name()
            ))),
        }
    }

    async fn status(&self) -> Result<ServingStatus, CommandError> {
        let ask = async { Ok(self.socket.connect().await?.health().await?) };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .map_err(|_| CommandError::TimedOut(PATIENCE))?
    }
}
