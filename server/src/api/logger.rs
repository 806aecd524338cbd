//! The level of the log, while the server runs.

use std::sync::Arc;

use countersign_daemon::logs::Levels;
use countersign_proto::spire::api::server::logger::v1 as wire;
use countersign_proto::spire::api::types;
use tonic::{Request, Response, Status};

use super::Context;

/// The service.
pub(super) struct LoggerService(pub(super) Arc<Context>);

impl LoggerService {
    fn levels(&self) -> &Levels {
        &self.0.parts.levels
    }

    fn shown(&self) -> Response<types::Logger> {
        let levels = self.levels();
        Response::new(types::Logger {
            current_level: levels.current() as i32,
            launch_level: levels.launch() as i32,
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
        let set = self.levels().set_by_number(new_level);
        set.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(self.shown())
    }

    async fn reset_log_level(
        &self,
        _request: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.levels().reset();
        Ok(self.shown())
    }
}
