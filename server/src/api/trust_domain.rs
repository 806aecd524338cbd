//! Relationships with foreign trust domains.

use std::sync::Arc;

use countersign_proto::spire::api::server::trustdomain::v1 as wire;
use countersign_proto::spire::api::types;
use tonic::{Request, Response, Status};

use super::Context;
use super::status::not_yet;

/// The service.
pub(super) struct TrustDomains(
    #[expect(dead_code, reason = "its methods come with the next change")] pub(super) Arc<Context>,
);

#[tonic::async_trait]
impl wire::trust_domain_server::TrustDomain for TrustDomains {
    async fn list_federation_relationships(
        &self,
        _request: Request<wire::ListFederationRelationshipsRequest>,
    ) -> Result<Response<wire::ListFederationRelationshipsResponse>, Status> {
        Err(not_yet("federate"))
    }

    async fn get_federation_relationship(
        &self,
        _request: Request<wire::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        Err(not_yet("federate"))
    }

    async fn batch_create_federation_relationship(
        &self,
        _request: Request<wire::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchCreateFederationRelationshipResponse>, Status> {
        Err(not_yet("federate"))
    }

    async fn batch_update_federation_relationship(
        &self,
        _request: Request<wire::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchUpdateFederationRelationshipResponse>, Status> {
        Err(not_yet("federate"))
    }

    async fn batch_delete_federation_relationship(
        &self,
        _request: Request<wire::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchDeleteFederationRelationshipResponse>, Status> {
        Err(not_yet("federate"))
    }

    async fn refresh_bundle(
        &self,
        _request: Request<wire::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        Err(not_yet("federate"))
    }
}
