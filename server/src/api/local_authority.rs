//! The server's own authorities, rotated by hand.

use std::sync::Arc;

use countersign_proto::spire::api::server::localauthority::v1 as wire;
use tonic::{Request, Response, Status};

use super::Context;
use super::status::not_yet;

/// The service.
pub(super) struct LocalAuthorities(
    #[expect(dead_code, reason = "its methods come with the next change")] pub(super) Arc<Context>,
);

#[tonic::async_trait]
impl wire::local_authority_server::LocalAuthority for LocalAuthorities {
    async fn get_jwt_authority_state(
        &self,
        _request: Request<wire::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<wire::GetJwtAuthorityStateResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn prepare_jwt_authority(
        &self,
        _request: Request<wire::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<wire::PrepareJwtAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn activate_jwt_authority(
        &self,
        _request: Request<wire::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<wire::ActivateJwtAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn taint_jwt_authority(
        &self,
        _request: Request<wire::TaintJwtAuthorityRequest>,
    ) -> Result<Response<wire::TaintJwtAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn revoke_jwt_authority(
        &self,
        _request: Request<wire::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<wire::RevokeJwtAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn get_x509_authority_state(
        &self,
        _request: Request<wire::GetX509AuthorityStateRequest>,
    ) -> Result<Response<wire::GetX509AuthorityStateResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn prepare_x509_authority(
        &self,
        _request: Request<wire::PrepareX509AuthorityRequest>,
    ) -> Result<Response<wire::PrepareX509AuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn activate_x509_authority(
        &self,
        _request: Request<wire::ActivateX509AuthorityRequest>,
    ) -> Result<Response<wire::ActivateX509AuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn taint_x509_authority(
        &self,
        _request: Request<wire::TaintX509AuthorityRequest>,
    ) -> Result<Response<wire::TaintX509AuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn revoke_x509_authority(
        &self,
        _request: Request<wire::RevokeX509AuthorityRequest>,
    ) -> Result<Response<wire::RevokeX509AuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn get_wit_authority_state(
        &self,
        _request: Request<wire::GetWitAuthorityStateRequest>,
    ) -> Result<Response<wire::GetWitAuthorityStateResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn prepare_wit_authority(
        &self,
        _request: Request<wire::PrepareWitAuthorityRequest>,
    ) -> Result<Response<wire::PrepareWitAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn activate_wit_authority(
        &self,
        _request: Request<wire::ActivateWitAuthorityRequest>,
    ) -> Result<Response<wire::ActivateWitAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn taint_wit_authority(
        &self,
        _request: Request<wire::TaintWitAuthorityRequest>,
    ) -> Result<Response<wire::TaintWitAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn revoke_wit_authority(
        &self,
        _request: Request<wire::RevokeWitAuthorityRequest>,
    ) -> Result<Response<wire::RevokeWitAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn taint_x509_upstream_authority(
        &self,
        _request: Request<wire::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<wire::TaintX509UpstreamAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        _request: Request<wire::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<wire::RevokeX509UpstreamAuthorityResponse>, Status> {
        Err(not_yet("rotate authorities by hand"))
    }
}
