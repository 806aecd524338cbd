//! The verbs of the admin socket: `logger get`, `set` and `reset`, and `debug getinfo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::agent::debug::v1::debug_client::DebugClient;
use countersign_proto::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse};
use countersign_proto::spire::api::agent::logger::v1::logger_client::LoggerClient;
use countersign_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use countersign_proto::spire::api::types::{LogLevel, Logger};
use countersign_transport::dial::UnixConnector;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::error::CommandError;
use super::socket::socket_path;

const DEFAULT_ADMIN_SOCKET: &str = "/tmp/spire-agent/private/admin.sock";
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the admin socket is.
#[derive(Debug, Clone, Args)]
struct AdminSocket {
    /// Path to the agent's admin socket
    #[arg(long = "socketPath", default_value = DEFAULT_ADMIN_SOCKET, value_name = "PATH")]
    socket_path: String,
}

impl AdminSocket {
    async fn connect(&self) -> Result<Channel, CommandError> {
        let path: PathBuf = socket_path(&self.socket_path)?;
        Endpoint::from_static("http://localhost")
            .connect_with_connector(UnixConnector::new(&path))
            .await
            .map_err(|source| CommandError::Dial { source })
    }
}

/// `logger`.
#[derive(Debug, Subcommand)]
pub(super) enum LoggerVerb {
    /// Gets the logger details
    #[command(after_help = "Example:\n  countersign-agent logger get")]
    Get(Plain),
    /// Sets the logger details
    #[command(
        after_help = "Example: everything, for as long as the node agent runs or until `logger reset`\n  \
        countersign-agent logger set -level trace"
    )]
    Set(Set),
    /// Reset the logger details to launch level
    #[command(after_help = "Example:\n  countersign-agent logger reset")]
    Reset(Plain),
}

/// `debug`.
#[derive(Debug, Subcommand)]
pub(super) enum DebugVerb {
    /// Prints debug information about the agent
    #[command(after_help = "Example:\n  countersign-agent debug getinfo -output json")]
    Getinfo(Plain),
}

/// What most of these verbs take.
#[derive(Debug, Args)]
pub(super) struct Plain {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: AdminSocket,
}

/// `logger set`.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// The new log level, one of (panic, fatal, error, warn, info, debug, trace)
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "LEVEL"
    )]
    level: String,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: AdminSocket,
}

impl LoggerVerb {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        self.execute(printer).await.map_err(admin)
    }

    async fn execute(self, printer: &mut Printer) -> Result<(), CommandError> {
        let (logger, output) = match self {
            Self::Get(Plain { output, socket }) => {
                let mut client = LoggerClient::new(socket.connect().await?);
                let got = within(client.get_logger(GetLoggerRequest {})).await;
                (
                    got.map_err(|e| during("error fetching logger", &e))?,
                    output,
                )
            }
            Self::Set(set) => {
                let request = SetLogLevelRequest {
                    new_level: level(&set.level)?.into(),
                };
                let mut client = LoggerClient::new(set.socket.connect().await?);
                let got = within(client.set_log_level(request)).await;
                let got = got.map_err(|e| during("failed to set log level", &e))?;
                (got, set.output)
            }
            Self::Reset(Plain { output, socket }) => {
                let mut client = LoggerClient::new(socket.connect().await?);
                let got = within(client.reset_log_level(ResetLogLevelRequest {})).await;
                (
                    got.map_err(|e| during("failed to reset logger", &e))?,
                    output,
                )
            }
        };
        match output.output {
            Output::Json => printer.line(json!({
                "current_level": logger.current_level().as_str_name(),
                "launch_level": logger.launch_level().as_str_name(),
            })),
            Output::Pretty => print_logger(printer, &logger),
        }
        Ok(())
    }
}

impl DebugVerb {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        self.execute(printer).await.map_err(admin)
    }

    async fn execute(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Getinfo(Plain { output, socket }) = self;
        let mut client = DebugClient::new(socket.connect().await?);
        let info = within(client.get_info(GetInfoRequest {})).await?;
        match output.output {
            Output::Json => printer.line(info_json(&info)),
            Output::Pretty => print_info(printer, &info),
        }
        Ok(())
    }
}

async fn within<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CommandError> {
    let answer = tokio::time::timeout(PATIENCE, call).await;
    let answer = answer.map_err(|_| CommandError::TimedOut(PATIENCE))?;
    Ok(answer?.into_inner())
}

fn admin(error: CommandError) -> CommandError {
    CommandError::Admin(Box::new(error))
}

fn during(what: &str, error: &CommandError) -> CommandError {
    CommandError::Answer(format!("{what}: {error}"))
}

fn level(text: &str) -> Result<LogLevel, CommandError> {
    let wrong = |what: String| Err(CommandError::Answer(what));
    match text.to_ascii_lowercase().as_str() {
        "" => wrong("a value (-level) must be set".to_owned()),
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => wrong(format!("the value {text:?} is not a valid setting")),
    }
}

fn print_logger(printer: &mut Printer, logger: &Logger) {
    let name = |level: LogLevel| match level {
        // As SPIRE's logging library calls it.
        LogLevel::Warn => "warning".to_owned(),
        level => level.as_str_name().to_ascii_lowercase(),
    };
    printer.line(format!("Logger Level : {}", name(logger.current_level())));
    printer.line(format!("Launch Level : {}\n", name(logger.launch_level())));
}

fn print_info(printer: &mut Printer, info: &GetInfoResponse) {
    let synced = match info.last_sync_success {
        0 => "(never)".to_owned(),
        at => rfc3339(at),
    };
    printer.line("Agent Debug Info:");
    let mut line = |what: &str, value: &str| printer.line(format!("  {what:<32} {value}"));
    line("Uptime:", &go_duration(info.uptime));
    line("Last Sync Success:", &synced);
    line(
        "Cached X.509 SVIDs:",
        &info.cached_x509_svids_count.to_string(),
    );
    line(
        "Cached JWT SVIDs:",
        &info.cached_jwt_svids_count.to_string(),
    );
    let stored = info.cached_svidstore_x509_svids_count;
    line("Cached SVID Store X.509 SVIDs:", &stored.to_string());
    if info.svid_chain.is_empty() {
        return;
    }
    printer.line("  SVID Chain:");
    for (index, cert) in info.svid_chain.iter().enumerate() {
        let id = cert.id.as_ref().map_or_else(
            || "(none)".to_owned(),
            |id| format!("spiffe://{}{}", id.trust_domain, id.path),
        );
        printer.line(format!("    [{index}] SPIFFE ID:  {id}"));
        printer.line(format!("        Subject:    {}", cert.subject));
        printer.line(format!("        Expires At: {}", rfc3339(cert.expires_at)));
    }
}

fn rfc3339(at: i64) -> String {
    OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| at.to_string())
}

/// Seconds as Go prints a duration: `1h2m3s`.
fn go_duration(seconds: i32) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// As protobuf's JSON: numbers of 64 bits are texts there.
fn info_json(info: &GetInfoResponse) -> Value {
    let chain: Vec<_> = info
        .svid_chain
        .iter()
        .map(|cert| {
            let mut json = json!({
                "expires_at": cert.expires_at.to_string(),
                "subject": cert.subject,
            });
            if let (Some(id), Some(json)) = (&cert.id, json.as_object_mut()) {
                let id = json!({"trust_domain": id.trust_domain, "path": id.path});
                json.insert("id".into(), id);
            }
            json
        })
        .collect();
    #[expect(deprecated, reason = "SPIRE prints it too")]
    let svids_count = info.svids_count;
    json!({
        "svid_chain": chain,
        "uptime": info.uptime,
        "svids_count": svids_count,
        "last_sync_success": info.last_sync_success.to_string(),
        "cached_x509_svids_count": info.cached_x509_svids_count,
        "cached_jwt_svids_count": info.cached_jwt_svids_count,
        "cached_svidstore_x509_svids_count": info.cached_svidstore_x509_svids_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_gos() {
        let printed = [0, 59, 60, 3599, 3600, 90_061].map(go_duration);
        assert_eq!(
            printed,
            ["0s", "59s", "1m0s", "59m59s", "1h0m0s", "25h1m1s"]
        );
    }
}
