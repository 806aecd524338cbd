//! What the server knows of itself.

use std::sync::Arc;

use countersign_proto::spire::api::server::debug::v1 as wire;
use tonic::{Request, Response, Status};

use super::Context;
use super::status::not_yet;

/// The service.
pub(super) struct Debug(
    #[expect(dead_code, reason = "its methods come with the next change")] pub(super) Arc<Context>,
);

#[tonic::async_trait]
impl wire::debug_server::Debug for Debug {
    async fn get_info(
        &self,
        _request: Request<wire::GetInfoRequest>,
    ) -> Result<Response<wire::GetInfoResponse>, Status> {
        Err(not_yet("tell about itself"))
    }
}
