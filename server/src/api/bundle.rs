//! BundleService.

use std::fmt;
use std::sync::Arc;

use countersign_ca::upstream::{Published, UpstreamError};
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::{Bundle, TrustDomain};
use countersign_proto::convert::bundle::masked;
use countersign_proto::spire::api::server::bundle::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_store::Federating;
use countersign_transport::error::Chain;
use tonic::{Code, Request, Response, Status};

use super::status::{self, ApiError, not_yet};
use super::{Context, batch, count, paging};
use crate::limits;

mod federated;

/// The service.
pub(super) struct BundleService(pub(super) Arc<Context>);

const NOT_FOUND: &str = "bundle not found";

impl BundleService {
    fn one(
        &self,
        td: &TrustDomain,
        mask: Option<&types::BundleMask>,
    ) -> Result<Response<types::Bundle>, Status> {
        let record = self.0.parts.index.bundle_record(td);
        let record = record.ok_or_else(|| ApiError::not_found(NOT_FOUND))?;
        Ok(Response::new(masked((&record.value).into(), mask)))
    }

    async fn append(&self, request: wire::AppendBundleRequest) -> Result<types::Bundle, ApiError> {
        let wire::AppendBundleRequest {
            x509_authorities,
            jwt_authorities,
            output_mask,
            wit_authorities: _,
        } = request;
        if x509_authorities.is_empty() && jwt_authorities.is_empty() {
            return Err(ApiError::invalid("no authorities to append"));
        }
        if x509_authorities.len().max(jwt_authorities.len()) > limits::MAX_BUNDLE_AUTHORITIES {
            let limit = limits::MAX_BUNDLE_AUTHORITIES;
            return Err(ApiError::invalid(format!(
                "more than {limit} authorities of one kind"
            )));
        }
        let x509: Vec<X509Authority> =
            converted(x509_authorities, "failed to convert X.509 authority")?;
        let jwt: Vec<JwtAuthority> = converted(jwt_authorities, "failed to convert JWT authority")?;
        let parts = &self.0.parts;
        let appended = parts
            .store
            .bundle_append(&parts.trust_domain, &x509, &jwt)
            .await
            .map_err(|e| ApiError::store("failed to append bundle", &e))?;
        let bundle = parts.index.visible(appended).await?;
        Ok(masked((&bundle).into(), output_mask.as_ref()))
    }

    /// Takes the JWT key of a downstream server, passes it on to the upstream authority if there is one, and answers with
    /// all keys of the trust domain.
    async fn publish(
        &self,
        request: wire::PublishJwtAuthorityRequest,
    ) -> Result<Vec<types::JwtKey>, ApiError> {
        let key = request
            .jwt_authority
            .ok_or_else(|| ApiError::invalid("missing JWT authority"))?;
        let key = JwtAuthority::try_from(key)
            .map_err(|e| ApiError::new(Code::InvalidArgument, "invalid JWT authority", e))?;
        self.check_publishable(&key)?;
        let parts = &self.0.parts;
        let published = match &parts.upstream {
            Some(upstream) => upstream
                .publish_jwt_key(&key)
                .await
                .map_err(|error| not_published(&key, &error))?,
            None => Published::Unsupported,
        };
        let keys = match published {
            Published::Upstream(keys) => keys,
            Published::Unsupported => vec![key],
        };
        let appended = parts
            .store
            .bundle_append(&parts.trust_domain, &[], &keys)
            .await
            .map_err(|e| ApiError::store("failed to publish JWT key", &e))?;
        let bundle = parts.index.visible(appended).await?;
        Ok(bundle.jwt_authorities.iter().map(Into::into).collect())
    }

    /// Refuses a key for which the bundle has no room, or whose ID another key has.
    fn check_publishable(&self, key: &JwtAuthority) -> Result<(), ApiError> {
        let parts = &self.0.parts;
        let Some(bundle) = parts.index.bundle_record(&parts.trust_domain) else {
            return Ok(());
        };
        let keys = &bundle.value.jwt_authorities;
        match keys.iter().find(|present| present.key_id == key.key_id) {
            Some(present) if present.public_key == key.public_key => Ok(()),
            Some(_) => Err(ApiError::new(
                Code::InvalidArgument,
                "invalid JWT authority",
                "another key has this key ID",
            )),
            None if keys.len() >= limits::MAX_PUBLISHED_JWT_KEYS => {
                let limit = limits::MAX_PUBLISHED_JWT_KEYS;
                let message =
                    format!("the bundle has {limit} JWT authorities and no place for more");
                Err(ApiError::plain(Code::ResourceExhausted, message))
            }
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl wire::bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        _request: Request<wire::CountBundlesRequest>,
    ) -> Result<Response<wire::CountBundlesResponse>, Status> {
        let count = count(self.0.parts.index.count_bundles());
        Ok(Response::new(wire::CountBundlesResponse { count }))
    }

    async fn get_bundle(
        &self,
        request: Request<wire::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let wire::GetBundleRequest { output_mask } = request.into_inner();
        self.one(&self.0.parts.trust_domain, output_mask.as_ref())
    }

    async fn append_bundle(
        &self,
        request: Request<wire::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(self.append(request.into_inner()).await?))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<wire::ListFederatedBundlesRequest>,
    ) -> Result<Response<wire::ListFederatedBundlesResponse>, Status> {
        let wire::ListFederatedBundlesRequest {
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let page = paging::requested(page_size, &page_token, "failed to list bundles")?;
        let parts = &self.0.parts;
        let records = parts.index.bundles(page);
        // The server's own bundle takes part in the paging, and is left out afterwards.
        let bundles = records
            .iter()
            .filter(|record| record.value.trust_domain != parts.trust_domain)
            .map(|record| masked((&record.value).into(), output_mask.as_ref()))
            .collect();
        let next_page_token = paging::next(page, records.last().map(|record| record.created));
        Ok(Response::new(wire::ListFederatedBundlesResponse {
            bundles,
            next_page_token,
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<wire::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let wire::GetFederatedBundleRequest {
            trust_domain,
            output_mask,
        } = request.into_inner();
        let own = "getting a federated bundle for the server's own trust domain is not allowed";
        let td = self.foreign(&trust_domain, own)?;
        self.one(&td, output_mask.as_ref())
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<wire::PublishJwtAuthorityRequest>,
    ) -> Result<Response<wire::PublishJwtAuthorityResponse>, Status> {
        Context::limit(&self.0.key_publications, &request, 1).await?;
        let jwt_authorities = self.publish(request.into_inner()).await?;
        Ok(Response::new(wire::PublishJwtAuthorityResponse {
            jwt_authorities,
        }))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<wire::PublishWitAuthorityRequest>,
    ) -> Result<Response<wire::PublishWitAuthorityResponse>, Status> {
        Err(not_yet("take WIT authorities of downstream servers"))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<wire::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchCreateFederatedBundleResponse>, Status> {
        let wire::BatchCreateFederatedBundleRequest {
            bundle,
            output_mask,
        } = request.into_inner();
        let mask = output_mask.as_ref();
        let results = batch(bundle, |bundle| async move {
            let (status, bundle) = item(self.create(bundle).await, mask);
            wire::batch_create_federated_bundle_response::Result { status, bundle }
        })
        .await?;
        Ok(Response::new(wire::BatchCreateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<wire::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchUpdateFederatedBundleResponse>, Status> {
        let wire::BatchUpdateFederatedBundleRequest {
            bundle,
            input_mask,
            output_mask,
        } = request.into_inner();
        let (change, mask) = (input_mask.as_ref(), output_mask.as_ref());
        let results = batch(bundle, |bundle| async move {
            let (status, bundle) = item(self.update(bundle, change).await, mask);
            wire::batch_update_federated_bundle_response::Result { status, bundle }
        })
        .await?;
        Ok(Response::new(wire::BatchUpdateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<wire::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchSetFederatedBundleResponse>, Status> {
        let wire::BatchSetFederatedBundleRequest {
            bundle,
            output_mask,
        } = request.into_inner();
        let mask = output_mask.as_ref();
        let results = batch(bundle, |bundle| async move {
            let (status, bundle) = item(self.set(bundle).await, mask);
            wire::batch_set_federated_bundle_response::Result { status, bundle }
        })
        .await?;
        Ok(Response::new(wire::BatchSetFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<wire::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchDeleteFederatedBundleResponse>, Status> {
        use wire::batch_delete_federated_bundle_request::Mode;

        let wire::BatchDeleteFederatedBundleRequest {
            trust_domains,
            mode,
        } = request.into_inner();
        let mode = match Mode::try_from(mode) {
            Ok(Mode::Restrict) => Federating::Keep,
            Ok(Mode::Delete) => Federating::Delete,
            Ok(Mode::Dissociate) => Federating::Dissociate,
            Err(_) => {
                let message =
                    format!("failed to parse deletion mode: unhandled delete mode \"{mode}\"");
                return Err(ApiError::invalid(message).into());
            }
        };
        let results = batch(trust_domains, |trust_domain| async move {
            let deleted = self.delete(&trust_domain, mode).await;
            wire::batch_delete_federated_bundle_response::Result {
                status: Some(deleted.map_or_else(ApiError::item, |()| status::ok())),
                trust_domain,
            }
        })
        .await?;
        Ok(Response::new(wire::BatchDeleteFederatedBundleResponse {
            results,
        }))
    }
}

/// All of the messages as domain types, or the error of the first that is malformed.
fn converted<M, T>(messages: Vec<M>, summary: &str) -> Result<Vec<T>, ApiError>
where
    T: TryFrom<M, Error: fmt::Display>,
{
    let converted: Result<_, _> = messages.into_iter().map(T::try_from).collect();
    converted.map_err(|error| ApiError::new(Code::InvalidArgument, summary, error))
}

/// The status and bundle of a batch's item.
fn item(
    result: Result<Bundle, ApiError>,
    mask: Option<&types::BundleMask>,
) -> (Option<types::Status>, Option<types::Bundle>) {
    match result {
        Ok(bundle) => (Some(status::ok()), Some(masked((&bundle).into(), mask))),
        Err(failure) => (Some(failure.item()), None),
    }
}

/// The reason goes to the log, not to the downstream server.
fn not_published(key: &JwtAuthority, error: &UpstreamError) -> ApiError {
    tracing::warn!(
        error = %Chain(error),
        key_id = key.key_id,
        "The JWT key of a downstream server could not be published"
    );
    let cause = "the upstream authority did not take it";
    ApiError::new(Code::Internal, "failed to publish JWT key", cause)
}
