//! `logger get`, `set` and `reset`.

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use countersign_proto::spire::api::types::{LogLevel, Logger};

use crate::client::SocketFlag;
use crate::error::CommandError;
use crate::json;

/// Verbs on the server's log.
#[derive(Debug, Subcommand)]
pub(crate) enum LoggerVerb {
    /// Gets the logger details
    #[command(after_help = "Example:\n  countersign-server logger get")]
    Get(Plain),
    /// Sets the logger details
    #[command(
        after_help = "Example: everything, for as long as the server runs or until `logger reset`\n  \
        countersign-server logger set -level trace"
    )]
    Set(Set),
    /// Reset the logger details to launch level
    #[command(after_help = "Example:\n  countersign-server logger reset")]
    Reset(Plain),
}

/// `logger get` and `logger reset`.
#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `logger set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The new log level, one of (panic, fatal, error, warn, info, debug, trace)
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl LoggerVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let (logger, output) = match self {
            Self::Get(Plain { output, socket }) => {
                let client = socket.connect().await?;
                let got = client.logger().get_logger(GetLoggerRequest {}).await;
                let got = client.answer(got);
                (got.map_err(|e| e.during("error fetching logger"))?, output)
            }
            Self::Set(set) => {
                let new_level = level(set.level.as_deref())?.into();
                let client = set.socket.connect().await?;
                let request = SetLogLevelRequest { new_level };
                let got = client.answer(client.logger().set_log_level(request).await);
                let got = got.map_err(|e| e.during("failed to set log level"))?;
                (got, set.output)
            }
            Self::Reset(Plain { output, socket }) => {
                let client = socket.connect().await?;
                let request = ResetLogLevelRequest {};
                let got = client.answer(client.logger().reset_log_level(request).await);
                (got.map_err(|e| e.during("failed to reset logger"))?, output)
            }
        };
        if output.output == Output::Json {
            return json::print(printer, "spire.api.types.Logger", &logger);
        }
        print(printer, &logger);
        Ok(())
    }
}

fn level(text: Option<&str>) -> Result<LogLevel, CommandError> {
    let text = text.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| CommandError::usage("a value (-level) must be set"))?;
    match text.to_ascii_lowercase().as_str() {
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(CommandError::usage(format!(
            "the value {text:?} is not a valid setting"
        ))),
    }
}

fn print(printer: &mut Printer, logger: &Logger) {
    let name = |level: LogLevel| match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    printer.line(format_args!(
        "Logger Level : {}",
        name(logger.current_level())
    ));
    printer.line(format_args!(
        "Launch Level : {}\n",
        name(logger.launch_level())
    ));
}
