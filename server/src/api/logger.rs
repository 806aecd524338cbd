//! The level of the log, while the server runs.

use std::sync::Arc;

use countersign_proto::spire::api::server::logger::v1 as wire;
use countersign_proto::spire::api::types;
use tonic::{Request, Response, Status};

use super::Context;
use super::status::not_yet;

/// The service.
pub(super) struct Logger(
    #[expect(dead_code, reason = "its methods come with the next change")] pub(super) Arc<Context>,
);

#[tonic::async_trait]
impl wire::logger_server::Logger for Logger {
    async fn get_logger(
        &self,
        _request: Request<wire::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Err(not_yet("change its log level"))
    }

    async fn set_log_level(
        &self,
        _request: Request<wire::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Err(not_yet("change its log level"))
    }

    async fn reset_log_level(
        &self,
        _request: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Err(not_yet("change its log level"))
    }
}
