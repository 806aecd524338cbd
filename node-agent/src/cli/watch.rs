//! `api watch`.

use std::time::Duration;

use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spiffe::workload::X509svidResponse;
use countersign_transport::backoff::Backoff;
use countersign_transport::{Clock as _, SystemClock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::error::CommandError;
use super::socket::SocketFlag;
use super::svids::{FetchedSvids, json};

/// `api watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the SVIDs of this very process, and again whenever they change, until it is interrupted:\n  \
    countersign-agent api watch -socketPath /run/agent/api.sock"
)]
pub(super) struct Watch {
    #[command(flatten)]
    socket: SocketFlag,
    #[command(flatten)]
    output: OutputFlag,
}

impl Watch {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let stop = CancellationToken::new();
        countersign_daemon::signals::cancel_on_signal(stop.clone())
            .map_err(CommandError::Runtime)?;
        stop.run_until_cancelled(self.watch(printer))
            .await
            .unwrap_or(Ok(()))
    }

    /// Follows the stream until it is interrupted. Transient errors are printed and retried, as SPIFFE clients do.
    async fn watch(&self, printer: &mut Printer) -> Result<(), CommandError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut since = Instant::now();
        loop {
            let error = match self.open().await {
                Ok(mut answers) => {
                    self.follow(&mut answers, printer, &mut since, &mut backoff)
                        .await
                }
                Err(error) => error,
            };
            if matches!(&error, CommandError::Status(status) if status.code() == Code::InvalidArgument)
                || matches!(error, CommandError::Address(_))
            {
                return Err(error);
            }
            printer.error_text(&format!("{error}\n"));
            backoff.wait().await;
        }
    }

    async fn open(&self) -> Result<Streaming<X509svidResponse>, CommandError> {
        Ok(self.socket.connect().await?.x509_svids().await?)
    }

    /// Prints until the stream ends; returns the reason.
    async fn follow(
        &self,
        answers: &mut Streaming<X509svidResponse>,
        printer: &mut Printer,
        since: &mut Instant,
        backoff: &mut Backoff,
    ) -> CommandError {
        loop {
            let response = match answers.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return CommandError::Ended,
                Err(status) => return status.into(),
            };
            backoff.reset();
            match FetchedSvids::new(&response, SystemClock.now()) {
                Ok(_) if self.output.output == Output::Json => printer.line(json(&response)),
                Ok(answer) => answer.print(printer, since.elapsed()),
                Err(error) => printer.error_text(&format!("{error}\n")),
            }
            *since = Instant::now();
        }
    }
}
