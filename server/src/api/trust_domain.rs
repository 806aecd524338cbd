//! Relationships with foreign trust domains.

use std::sync::Arc;

use countersign_identity::TrustDomain;
use countersign_identity::bundle::Bundles as _;
use countersign_identity::federation::{EndpointProfile, Relationship};
use countersign_proto::convert::federation::{masked, relationship};
use countersign_proto::spire::api::server::trustdomain::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_store::RelationshipError;
use tonic::{Code, Request, Response, Status};

use super::status::{self, ApiError};
use super::{Context, batch, paging};
use crate::federation::RefreshError;

/// The service.
pub(super) struct TrustDomainService(pub(super) Arc<Context>);

type Mask = types::FederationRelationshipMask;

impl TrustDomainService {
    async fn create(
        &self,
        message: types::FederationRelationship,
    ) -> Result<Relationship, ApiError> {
        let (relationship, bundle) = self.checked(message, "create")?;
        let summary = "failed to create federation relationship";
        let parts = &self.0.parts;
        let created = parts
            .store
            .relationship_create(&relationship, bundle.as_ref());
        let created = created
            .await
            .map_err(|error| relationship_error(summary, &error))?;
        parts.index.visible(created).await?;
        self.warn_if_unverifiable(&relationship);
        Ok(relationship)
    }

    /// SPIRE converts the whole message before it looks at the mask, so all of it must be valid.
    async fn update(
        &self,
        message: types::FederationRelationship,
        mask: Option<&Mask>,
    ) -> Result<Relationship, ApiError> {
        let (wanted, bundle) = self.checked(message, "update")?;
        let bundle = bundle.filter(|_| mask.is_none_or(|mask| mask.trust_domain_bundle));
        let summary = "failed to update federation relationship";
        let parts = &self.0.parts;
        let change = |old: &Relationship| {
            let mut new = old.clone();
            if mask.is_none_or(|mask| mask.bundle_endpoint_url) {
                new.url.clone_from(&wanted.url);
            }
            if mask.is_none_or(|mask| mask.bundle_endpoint_profile) {
                new.profile.clone_from(&wanted.profile);
            }
            new
        };
        let updated =
            parts
                .store
                .relationship_update(&wanted.trust_domain, change, bundle.as_ref());
        let updated = updated
            .await
            .map_err(|error| relationship_error(summary, &error))?;
        let relationship = parts.index.visible(updated).await?;
        self.warn_if_unverifiable(&relationship);
        Ok(relationship)
    }

    async fn delete(&self, td: &str) -> Result<(), ApiError> {
        if td.is_empty() {
            return Err(ApiError::invalid("missing trust domain"));
        }
        let td = parsed(td)?;
        let summary = "failed to delete federation relationship";
        let parts = &self.0.parts;
        let deleted = parts
            .store
            .relationship_delete(&td)
            .await
            .map_err(|error| match error {
                RelationshipError::Missing => {
                    ApiError::not_found("federation relationship not found")
                }
                error => relationship_error(summary, &error),
            })?;
        Ok(parts.index.visible(deleted).await?)
    }

    /// The relationship and bundle of a message, if they are valid and of a foreign trust domain.
    fn checked(
        &self,
        message: types::FederationRelationship,
        verb: &str,
    ) -> Result<(Relationship, Option<countersign_identity::Bundle>), ApiError> {
        let summary = "failed to convert federation relationship";
        let (relationship, bundle) =
            relationship(message).map_err(|e| ApiError::new(Code::InvalidArgument, summary, e))?;
        if relationship.trust_domain == self.0.parts.trust_domain {
            return Err(ApiError::invalid(format!(
                "unable to {verb} federation relationship for server trust domain"
            )));
        }
        Ok((relationship, bundle))
    }

    /// An endpoint that can't be verified yet is no error: an administrator may set its bundle later.
    fn warn_if_unverifiable(&self, relationship: &Relationship) {
        if let EndpointProfile::Spiffe(id) = &relationship.profile
            && self.0.parts.index.bundle_of(id).is_none()
        {
            tracing::warn!(
                endpoint_spiffe_id = %id,
                trust_domain = %relationship.trust_domain,
                "No bundle is stored for the trust domain of the bundle endpoint's SPIFFE ID: set it, so that the \
                 endpoint can be verified"
            );
        }
    }

    fn to_wire(
        &self,
        relationship: &Relationship,
        mask: Option<&Mask>,
    ) -> types::FederationRelationship {
        let bundle = self
            .0
            .parts
            .index
            .bundle(relationship.trust_domain.as_str());
        masked(relationship, bundle.as_deref(), mask)
    }

    /// The status and relationship of a batch's item.
    fn item(
        &self,
        result: Result<Relationship, ApiError>,
        mask: Option<&Mask>,
    ) -> (Option<types::Status>, Option<types::FederationRelationship>) {
        match result {
            Ok(relationship) => (Some(status::ok()), Some(self.to_wire(&relationship, mask))),
            Err(failure) => (Some(failure.item()), None),
        }
    }
}

#[tonic::async_trait]
impl wire::trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<wire::ListFederationRelationshipsRequest>,
    ) -> Result<Response<wire::ListFederationRelationshipsResponse>, Status> {
        let wire::ListFederationRelationshipsRequest {
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let summary = "failed to list federation relationships";
        let page = paging::requested(page_size, &page_token, summary)?;
        let records = self.0.parts.index.relationships(page);
        let federation_relationships = records
            .iter()
            .map(|record| self.to_wire(&record.value, output_mask.as_ref()))
            .collect();
        let next_page_token = paging::next(page, records.last().map(|record| record.created));
        Ok(Response::new(wire::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<wire::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let wire::GetFederationRelationshipRequest {
            trust_domain,
            output_mask,
        } = request.into_inner();
        let td = parsed(&trust_domain)?;
        let record = self.0.parts.index.relationship(&td);
        let record =
            record.ok_or_else(|| ApiError::not_found("federation relationship does not exist"))?;
        Ok(Response::new(
            self.to_wire(&record.value, output_mask.as_ref()),
        ))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<wire::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchCreateFederationRelationshipResponse>, Status> {
        let wire::BatchCreateFederationRelationshipRequest {
            federation_relationships,
            output_mask,
        } = request.into_inner();
        let mask = output_mask.as_ref();
        let results = batch(federation_relationships, |message| async move {
            let (status, federation_relationship) = self.item(self.create(message).await, mask);
            wire::batch_create_federation_relationship_response::Result {
                status,
                federation_relationship,
            }
        })
        .await?;
        Ok(Response::new(
            wire::BatchCreateFederationRelationshipResponse { results },
        ))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<wire::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchUpdateFederationRelationshipResponse>, Status> {
        let wire::BatchUpdateFederationRelationshipRequest {
            federation_relationships,
            input_mask,
            output_mask,
        } = request.into_inner();
        let (change, mask) = (input_mask.as_ref(), output_mask.as_ref());
        let results = batch(federation_relationships, |message| async move {
            let updated = self.update(message, change).await;
            let (status, federation_relationship) = self.item(updated, mask);
            wire::batch_update_federation_relationship_response::Result {
                status,
                federation_relationship,
            }
        })
        .await?;
        Ok(Response::new(
            wire::BatchUpdateFederationRelationshipResponse { results },
        ))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<wire::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchDeleteFederationRelationshipResponse>, Status> {
        let wire::BatchDeleteFederationRelationshipRequest { trust_domains } = request.into_inner();
        let results = batch(trust_domains, |trust_domain| async move {
            let deleted = self.delete(&trust_domain).await;
            // SPIRE answers with the bare name, also if an ID was sent; with the text itself if it can't be parsed.
            let trust_domain = match TrustDomain::from_name_or_id(&trust_domain) {
                Ok(td) => td.to_string(),
                Err(_) => trust_domain,
            };
            wire::batch_delete_federation_relationship_response::Result {
                status: Some(deleted.map_or_else(ApiError::item, |()| status::ok())),
                trust_domain,
            }
        })
        .await?;
        Ok(Response::new(
            wire::BatchDeleteFederationRelationshipResponse { results },
        ))
    }

    async fn refresh_bundle(
        &self,
        request: Request<wire::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        let wire::RefreshBundleRequest { trust_domain } = request.into_inner();
        let td = parsed(&trust_domain)?;
        let refreshed = self.0.parts.refresher.refresh(td).await;
        refreshed.map_err(|error| match error {
            RefreshError::Unknown(_) => ApiError::not_found(error.to_string()),
            RefreshError::Failed(_) | RefreshError::Crowded => {
                ApiError::new(Code::Internal, "failed to refresh bundle", error)
            }
            RefreshError::Stopped => {
                ApiError::new(Code::Unavailable, "failed to refresh bundle", error)
            }
        })?;
        Ok(Response::new(()))
    }
}

fn relationship_error(summary: &str, error: &RelationshipError) -> ApiError {
    match error {
        RelationshipError::Store(error) => ApiError::store(summary, error),
        RelationshipError::Exists | RelationshipError::Missing => {
            ApiError::new(Code::Internal, summary, error)
        }
    }
}

fn parsed(td: &str) -> Result<TrustDomain, ApiError> {
    TrustDomain::from_name_or_id(td)
        .map_err(|e| ApiError::new(Code::InvalidArgument, "failed to parse trust domain", e))
}
