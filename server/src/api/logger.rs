//! The level of the log, while the server runs.

use std::sync::Arc;

use countersign_daemon::logs::{Level, Levels};
use countersign_proto::spire::api::server::logger::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::LogLevel;
use tonic::{Request, Response, Status};

use super::Context;
use super::status::ApiError;

/// The service.
pub(super) struct LoggerService(pub(super) Arc<Context>);

impl LoggerService {
    fn levels(&self) -> &Levels {
        &self.0.parts.levels
    }

    fn shown(&self) -> Response<types::Logger> {
        let levels = self.levels();
        Response::new(types::Logger {
            current_level: to_wire(levels.current()).into(),
            launch_level: to_wire(levels.launch()).into(),
        })
    }
}

#[tonic::async_trait]
impl wire::logger_server::Logger for LoggerService {
    async fn get_logger(
        &self,
        _request: Request<wire::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.shown())
    }

    async fn set_log_level(
        &self,
        request: Request<wire::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let wire::SetLogLevelRequest { new_level } = request.into_inner();
        let level = from_wire(new_level)?;
        // Logged at a level that is visible before or after the change.
        tracing::info!(%level, "Log level is set");
        self.levels().set(level);
        tracing::info!(%level, "Log level was set");
        Ok(self.shown())
    }

    async fn reset_log_level(
        &self,
        _request: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.levels().reset();
        tracing::info!(level = %self.levels().launch(), "Log level was reset");
        Ok(self.shown())
    }
}

fn from_wire(level: i32) -> Result<Level, ApiError> {
    match LogLevel::try_from(level) {
        Ok(LogLevel::Unspecified) => Err(ApiError::invalid(
            "newLevel value cannot be LogLevel_UNSPECIFIED",
        )),
        Ok(LogLevel::Panic) => Ok(Level::Panic),
        Ok(LogLevel::Fatal) => Ok(Level::Fatal),
        Ok(LogLevel::Error) => Ok(Level::Error),
        Ok(LogLevel::Warn) => Ok(Level::Warn),
        Ok(LogLevel::Info) => Ok(Level::Info),
        Ok(LogLevel::Debug) => Ok(Level::Debug),
        Ok(LogLevel::Trace) => Ok(Level::Trace),
        Err(_) => Err(ApiError::invalid("unsupported log level")),
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
