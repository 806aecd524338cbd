//! `logger get`, `set` and `reset`.

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use countersign_proto::spire::api::types::{LogLevel, Logger};

use crate::client::CallFlags;
use crate::error::{CommandError, During as _};
use crate::flag::{self, InvalidFlag};
use crate::json;

/// Verbs on the server's log.
#[derive(Debug, Subcommand)]
pub(crate) enum LoggerVerb {
    /// Gets the logger details
    #[command(after_help = "Example:\n  countersign-server logger get")]
    Get(CallFlags),
    /// Sets the logger details
    #[command(
        after_help = "Example: everything, for as long as the server runs or until `logger reset`\n  \
        countersign-server logger set -level trace"
    )]
    Set(SetLevel),
    /// Reset the logger details to launch level
    #[command(after_help = "Example:\n  countersign-server logger reset")]
    Reset(CallFlags),
}

/// `logger set`.
#[derive(Debug, Args)]
pub(crate) struct SetLevel {
    /// The new log level, one of (panic, fatal, error, warn, info, debug, trace)
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

impl LoggerVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let (logger, flags) = match self {
            Self::Get(flags) => {
                let client = flags.connect().await?;
                let got = client
                    .call(client.logger().get_logger(GetLoggerRequest {}))
                    .await;
                (got.during("error fetching logger")?, flags)
            }
            Self::Set(SetLevel { level, flags }) => {
                let new_level = parse_level(level)?.into();
                let client = flags.connect().await?;
                let request = SetLogLevelRequest { new_level };
                let set = client.call(client.logger().set_log_level(request)).await;
                (set.during("failed to set log level")?, flags)
            }
            Self::Reset(flags) => {
                let client = flags.connect().await?;
                let request = ResetLogLevelRequest {};
                let reset = client.call(client.logger().reset_log_level(request)).await;
                (reset.during("failed to reset logger")?, flags)
            }
        };
        if flags.json() {
            return Ok(json::print(printer, &logger)?);
        }
        print(printer, &logger);
        Ok(())
    }
}

fn parse_level(text: Option<String>) -> Result<LogLevel, CommandError> {
    let text = flag::required(text, "a value (-level) must be set")?;
    let level = match text.to_ascii_uppercase().as_str() {
        "UNSPECIFIED" => None,
        "WARNING" => Some(LogLevel::Warn),
        name => LogLevel::from_str_name(name),
    };
    Ok(level.ok_or(InvalidFlag::LogLevel(text))?)
}

fn print(printer: &mut Printer, logger: &Logger) {
    let name = |level: LogLevel| match level {
        // As SPIRE's logging library calls it.
        LogLevel::Warn => "warning".to_owned(),
        level => level.as_str_name().to_ascii_lowercase(),
    };
    printer.line(format!("Logger Level : {}", name(logger.current_level())));
    printer.line(format!("Launch Level : {}\n", name(logger.launch_level())));
}
