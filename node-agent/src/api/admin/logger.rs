//! The level of the log, while the node agent runs.

use countersign_daemon::logs::{Level, Levels};
use countersign_proto::spire::api::agent::logger::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::LogLevel;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Logger(pub(super) Levels);

impl Logger {
    fn shown(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_wire(self.0.current()).into(),
            launch_level: to_wire(self.0.launch()).into(),
        })
    }
}

#[tonic::async_trait]
impl wire::logger_server::Logger for Logger {
    async fn get_logger(
        &self,
        _: Request<wire::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.shown())
    }

    async fn set_log_level(
        &self,
        request: Request<wire::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let level = from_wire(request.get_ref().new_level)?;
        // Logged at a level that is visible before or after the change.
        tracing::info!(%level, "Log level is set");
        self.0.set(level);
        tracing::info!(%level, "Log level was set");
        Ok(self.shown())
    }

    async fn reset_log_level(
        &self,
        _: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.0.reset();
        tracing::info!(level = %self.0.launch(), "Log level was reset");
        Ok(self.shown())
    }
}

fn from_wire(level: i32) -> Result<Level, Status> {
    let invalid = Status::invalid_argument;
    match LogLevel::try_from(level) {
        Ok(LogLevel::Unspecified) => Err(invalid("newLevel value cannot be LogLevel_UNSPECIFIED")),
        Ok(LogLevel::Panic) => Ok(Level::Panic),
        Ok(LogLevel::Fatal) => Ok(Level::Fatal),
        Ok(LogLevel::Error) => Ok(Level::Error),
        Ok(LogLevel::Warn) => Ok(Level::Warn),
        Ok(LogLevel::Info) => Ok(Level::Info),
        Ok(LogLevel::Debug) => Ok(Level::Debug),
        Ok(LogLevel::Trace) => Ok(Level::Trace),
        Err(_) => Err(invalid("unsupported log level")),
    }
}

const fn to_wire(level: Level) -> LogLevel {
    match level {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
        Level::Fatal => LogLevel::Fatal,
        Level::Panic => LogLevel::Panic,
    }
}
