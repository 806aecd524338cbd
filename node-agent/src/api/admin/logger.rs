//! The level of the log, while the node agent runs.

use countersign_daemon::logs::Levels;
use countersign_proto::spire::api::agent::logger::v1 as wire;
use countersign_proto::spire::api::types;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Logger(pub(super) Levels);

impl Logger {
    fn shown(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: self.0.current() as i32,
            launch_level: self.0.launch() as i32,
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
        let number = request.get_ref().new_level;
        let level = self.0.set_by_number(number);
        level.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(self.shown())
    }

    async fn reset_log_level(
        &self,
        _: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.0.reset();
        Ok(self.shown())
    }
}
