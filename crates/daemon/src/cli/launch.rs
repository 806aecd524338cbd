//! The common start of the daemons, and their messages about a configuration.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use countersign_config::{InvalidConfig, Warning};
use countersign_transport::error::Chain;
use countersign_transport::open_files;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::{Exit, Output, Printer};
use crate::address_file::{self, ForgetError};
use crate::logs::{self, Levels, LogError, LogOptions};
use crate::otlp::{Otlp, OtlpError, OtlpOptions};
use crate::signals::cancel_on_signal;

/// What a daemon needs to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// `service.name` of the exported traces and metrics.
    pub service: &'static str,
    /// The program's version.
    pub version: &'static str,
    /// Worker threads of the runtime, in addition to the calling thread; `None`: one per core.
    pub threads: Option<usize>,
    /// Where the log goes.
    pub logs: &'a LogOptions,
    /// The collector, if there is one.
    pub otlp: Option<&'a OtlpOptions>,
    /// Warnings about the configuration.
    pub warnings: &'a [Warning],
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The runtime's threads could not be spawned.
    #[error("could not start the program's threads")]
    Threads(#[source] io::Error),
    /// The exporter could not be set up.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The log can't be written.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// The signal handlers could not be installed.
    #[error("could not catch signals")]
    Signals(#[source] io::Error),
    /// The address file of an earlier process could not be removed.
    #[error(transparent)]
    AddressFile(#[from] ForgetError),
}

impl LaunchError {
    /// The program's exit code: nothing was started.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Threads(_) | Self::Signals(_) | Self::AddressFile(_) => Exit::Failure,
            Self::Otlp(_) | Self::Logs(_) => Exit::Configuration,
        }
    }
}

impl Launch<'_> {
    /// Starts what every daemon needs, then runs `daemon` to its end, once per process. `daemon` gets the level of the
    /// log, the connection to the collector, and a token that SIGINT or SIGTERM cancels.
    ///
    /// # Errors
    /// [`LaunchError`], before `daemon` was called. How it ended is inside.
    pub fn run<E>(
        self,
        address_file: Option<&Path>,
        daemon: impl AsyncFnOnce(Levels, Option<&Otlp>, CancellationToken) -> Result<(), E>,
    ) -> Result<Result<(), E>, LaunchError> {
        open_files::raise();
        let mut threads = Builder::new_multi_thread();
        if let Some(count) = self.threads {
            threads.worker_threads(count.max(1));
        }
        let runtime = threads.enable_all().build().map_err(LaunchError::Threads)?;
        // The exporters and signals need a runtime at their start.
        let entered = runtime.enter();
        let collector = self.otlp;
        let otlp = collector.map(|to| Otlp::start(to, self.service, self.version));
        let otlp = otlp.transpose()?;
        let levels = logs::init(self.logs, otlp.as_ref())?;
        for warning in self.warnings {
            tracing::warn!("{warning}");
        }
        let stop = CancellationToken::new();
        cancel_on_signal(stop.clone()).map_err(LaunchError::Signals)?;
        // A process that waits for the file must not read that of an earlier run.
        if let Some(path) = address_file {
            address_file::forget(path)?;
        }
        drop(entered);
        let ended = runtime.block_on(daemon(levels, otlp.as_ref(), stop));
        if let Some(otlp) = otlp {
            otlp.finish();
        }
        Ok(ended)
    }
}

/// Prints the errors of a configuration with which the daemon can't start.
pub fn refuse(printer: &mut Printer, error: &InvalidConfig) -> ExitCode {
    printer.error_text(&format!("{}\n", Chain(error)));
    hint(printer, error);
    printer.exit(Exit::Configuration)
}

/// Prints the result of `validate`, with SPIRE's texts. `daemon` is SPIRE's name for it, such as `server`.
pub fn validated(
    printer: &mut Printer,
    output: Output,
    daemon: &str,
    checked: Result<Vec<Warning>, InvalidConfig>,
) -> ExitCode {
    match (checked, output) {
        (Ok(warnings), Output::Json) => {
            let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            printer.line(serde_json::json!({ "valid": true, "warnings": warnings }));
            printer.exit(Exit::Success)
        }
        (Ok(warnings), Output::Pretty) => {
            for warning in warnings {
                printer.error_text(&format!("Warning: {warning}\n"));
            }
            printer.line(format!("SPIRE {daemon} configuration file is valid."));
            printer.exit(Exit::Success)
        }
        (Err(error), Output::Json) => {
            let findings = Chain(&error).to_string();
            let errors: Vec<_> = findings.lines().map(str::to_owned).collect();
            printer.line(serde_json::json!({ "valid": false, "errors": errors }));
            printer.exit(Exit::Failure)
        }
        (Err(error), Output::Pretty) => {
            // One finding follows the colon, as in SPIRE; several get lines of their own.
            let findings = Chain(&error).to_string();
            let gap = if findings.contains('\n') { "\n" } else { " " };
            printer.error_text(&format!(
                "SPIRE {daemon} configuration file is invalid:{gap}{findings}\n"
            ));
            hint(printer, &error);
            printer.exit(Exit::Failure)
        }
    }
}

/// Advice about a missing configuration file.
fn hint(printer: &mut Printer, error: &InvalidConfig) {
    if matches!(error, InvalidConfig::Unreadable { .. }) {
        printer.error_text("Name the configuration file with -config FILE.\n");
    }
}
