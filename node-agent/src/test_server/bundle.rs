//! Bundles: the own one, and those of others.

use countersign_proto::spire::api::server::bundle::v1::{self, bundle_server};
use countersign_proto::spire::api::types;
use tonic::{Request, Response, Status};

use super::{Shared, not_here};

#[tonic::async_trait]
impl bundle_server::Bundle for Shared {
    async fn get_bundle(
        &self,
        _: Request<v1::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.called("GetBundle")?;
        Ok(Response::new((&self.state().bundle).into()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<v1::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.authorize(&request)?;
        self.called("GetFederatedBundle")?;
        let state = self.state();
        let found = state.federated.get(&request.get_ref().trust_domain);
        found
            .map(|b| Response::new(b.into()))
            .ok_or_else(|| Status::not_found("bundle not found"))
    }

    async fn count_bundles(
        &self,
        _: Request<v1::CountBundlesRequest>,
    ) -> Result<Response<v1::CountBundlesResponse>, Status> {
        not_here()
    }

    async fn append_bundle(
        &self,
        _: Request<v1::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        not_here()
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<v1::PublishJwtAuthorityRequest>,
    ) -> Result<Response<v1::PublishJwtAuthorityResponse>, Status> {
        not_here()
    }

    async fn publish_wit_authority(
        &self,
        _: Request<v1::PublishWitAuthorityRequest>,
    ) -> Result<Response<v1::PublishWitAuthorityResponse>, Status> {
        not_here()
    }

    async fn list_federated_bundles(
        &self,
        _: Request<v1::ListFederatedBundlesRequest>,
    ) -> Result<Response<v1::ListFederatedBundlesResponse>, Status> {
        not_here()
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<v1::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<v1::BatchCreateFederatedBundleResponse>, Status> {
        not_here()
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<v1::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<v1::BatchUpdateFederatedBundleResponse>, Status> {
        not_here()
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<v1::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<v1::BatchSetFederatedBundleResponse>, Status> {
        not_here()
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<v1::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<v1::BatchDeleteFederatedBundleResponse>, Status> {
        not_here()
    }
}
