//! Signing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_ca::authority::{JwtRequest, MintError, SignError, WorkloadRequest};
use countersign_identity::{Entry, SignedSvid, SpiffeId};
use countersign_proto::convert::svid::SignedJwt;
use countersign_proto::spire::api::server::svid::v1 as wire;
use countersign_proto::spire::api::types;
use tonic::{Code, Request, Response, Status};

use super::Context;
use super::audit::Note;
use super::id;
use super::local_authority::jwt_disabled;
use super::status::{self, ApiError};
use crate::limits;

/// The service.
pub(super) struct SvidService(pub(super) Arc<Context>);

type BatchResult = wire::batch_new_x509svid_response::Result;

impl SvidService {
    /// What is to be signed for an item, if this agent may have it.
    fn plan(
        &self,
        agent: &SpiffeId,
        params: wire::NewX509svidParams,
    ) -> Result<WorkloadRequest, ApiError> {
        let wire::NewX509svidParams { entry_id, csr } = params;
        if entry_id.is_empty() {
            return Err(ApiError::invalid("missing entry ID"));
        }
        check_csr(&csr)?;
        let entry = self.0.parts.index.authorized_entry(agent, &entry_id);
        let entry = entry.ok_or_else(not_authorized)?;
        Ok(WorkloadRequest {
            entry: Arc::new(Entry::clone(&entry.value)),
            csr_der: csr,
        })
    }

    /// Signs the authority of a downstream server.
    async fn downstream(
        &self,
        request: wire::NewDownstreamX509caRequest,
    ) -> Result<wire::NewDownstreamX509caResponse, ApiError> {
        let wire::NewDownstreamX509caRequest { csr, preferred_ttl } = request;
        check_csr(&csr)?;
        let parts = &self.0.parts;
        let issued = parts
            .authority
            .sign_downstream(csr, seconds(preferred_ttl))
            .await
            .map_err(|e| sign_error("failed to sign downstream X.509 CA", &e))?;
        let bundle = parts
            .index
            .bundle_record(&parts.trust_domain)
            .ok_or_else(|| ApiError::not_found("bundle not found"))?;
        let roots = bundle.value.x509_authorities.iter();
        Ok(wire::NewDownstreamX509caResponse {
            ca_cert_chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            x509_authorities: roots.map(|root| root.der().to_vec().into()).collect(),
        })
    }

    fn check_signs_jwt(&self) -> Result<(), ApiError> {
        if self.0.parts.authority.signs_jwt() {
            Ok(())
        } else {
            Err(jwt_disabled())
        }
    }

    async fn sign_jwt(&self, request: JwtRequest) -> Result<types::Jwtsvid, ApiError> {
        if request.audience.is_empty() {
            return Err(ApiError::invalid("at least one audience is required"));
        }
        let id = request.id.clone();
        let signed = self.0.parts.authority.sign_jwt(request).await;
        let issued = signed.map_err(|error| sign_error("failed to sign JWT-SVID", &error))?;
        Ok((&SignedJwt {
            id,
            token: issued.token,
            issued_at: issued.issued_at,
            expires_at: issued.expires_at,
        })
            .into())
    }
}

fn not_authorized() -> ApiError {
    ApiError::not_found("entry not found or not authorized")
}

fn no_wit() -> Status {
    Status::unimplemented("WIT functionality is disabled")
}

/// A lifetime from the wire; nothing above zero asks for the default.
fn seconds(ttl: i32) -> Option<Duration> {
    let seconds = u64::try_from(ttl).ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs)
}

#[tonic::async_trait]
impl wire::svid_server::Svid for SvidService {
    async fn batch_new_x509svid(
        &self,
        request: Request<wire::BatchNewX509svidRequest>,
    ) -> Result<Response<wire::BatchNewX509svidResponse>, Status> {
        let items = request.get_ref().params.len();
        if items == 0 {
            return Err(ApiError::invalid("missing parameters").into());
        }
        if items > limits::MAX_BATCH_CSRS {
            let message = format!(
                "rate ({items}) exceeds burst size ({})",
                limits::MAX_BATCH_CSRS
            );
            return Err(ApiError::plain(Code::ResourceExhausted, message).into());
        }
        let context = &self.0;
        if context.parts.rate_limits.signing {
            Context::limit(&context.signatures, &request, items).await?;
        }
        let agent = Context::agent(&request)?;
        let note = Note::of(request.extensions());
        let mut planned = Vec::with_capacity(items);
        let mut requests = Vec::with_capacity(items);
        for params in request.into_inner().params {
            note.about(&params.entry_id);
            planned.push(
                self.plan(&agent, params)
                    .map(|request| requests.push(request)),
            );
        }
        let mut signed = context
            .parts
            .authority
            .sign_workloads(requests)
            .await
            .into_iter();
        let results = planned
            .into_iter()
            .map(|plan| match plan {
                Ok(()) => answer(signed.next()),
                Err(error) => not_signed(error),
            })
            .inspect(|result| note.item("", result.status.as_ref()))
            .collect();
        Ok(Response::new(wire::BatchNewX509svidResponse { results }))
    }

    async fn mint_x509svid(
        &self,
        request: Request<wire::MintX509svidRequest>,
    ) -> Result<Response<wire::MintX509svidResponse>, Status> {
        let wire::MintX509svidRequest { csr, ttl } = request.into_inner();
        check_csr(&csr)?;
        let minted = self.0.parts.authority.mint(csr, seconds(ttl)).await;
        let issued = minted.map_err(|error| match &error {
            MintError::Sign(why) => sign_error("failed to sign X509-SVID", why),
            faulty => ApiError::invalid(faulty.to_string()),
        })?;
        let svid = Some((&issued).into());
        Ok(Response::new(wire::MintX509svidResponse { svid }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<wire::MintJwtsvidRequest>,
    ) -> Result<Response<wire::MintJwtsvidResponse>, Status> {
        self.check_signs_jwt()?;
        let wire::MintJwtsvidRequest { id, audience, ttl } = request.into_inner();
        let id = id::workload(id, &self.0.parts.trust_domain)
            .map_err(|why| ApiError::new(Code::InvalidArgument, "invalid SPIFFE ID", why))?;
        let svid = self
            .sign_jwt(JwtRequest {
                id,
                audience,
                ttl: seconds(ttl),
                with_id: false,
            })
            .await?;
        Ok(Response::new(wire::MintJwtsvidResponse {
            svid: Some(svid),
        }))
    }

    async fn mint_witsvid(
        &self,
        _request: Request<wire::MintWitsvidRequest>,
    ) -> Result<Response<wire::MintWitsvidResponse>, Status> {
        Err(no_wit())
    }

    async fn new_jwtsvid(
        &self,
        request: Request<wire::NewJwtsvidRequest>,
    ) -> Result<Response<wire::NewJwtsvidResponse>, Status> {
        let context = &self.0;
        if context.parts.rate_limits.signing {
            let limited = Context::limit(&context.jwt_signatures, &request, 1).await;
            limited.map_err(|error| {
                error.with_summary("rejecting request due to JWT signing request rate limiting")
            })?;
        }
        self.check_signs_jwt()?;
        let agent = Context::agent(&request)?;
        let wire::NewJwtsvidRequest { entry_id, audience } = request.into_inner();
        let entry = context.parts.index.authorized_entry(&agent, &entry_id);
        let entry = entry.ok_or_else(not_authorized)?;
        let svid = self
            .sign_jwt(JwtRequest {
                id: entry.value.spiffe_id.clone(),
                audience,
                ttl: entry.value.jwt_svid_ttl,
                with_id: entry.value.attributes.jwt_svid_include_jti,
            })
            .await?;
        Ok(Response::new(wire::NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<wire::BatchNewWitsvidRequest>,
    ) -> Result<Response<wire::BatchNewWitsvidResponse>, Status> {
        Err(no_wit())
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<wire::NewDownstreamX509caRequest>,
    ) -> Result<Response<wire::NewDownstreamX509caResponse>, Status> {
        if self.0.parts.rate_limits.signing {
            Context::limit(&self.0.signatures, &request, 1).await?;
        }
        let answer = self.downstream(request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}

/// Refuses a CSR that is not there or too large to look at.
pub(super) fn check_csr(csr: &Bytes) -> Result<(), ApiError> {
    if csr.is_empty() {
        return Err(ApiError::invalid("missing CSR"));
    }
    if csr.len() > limits::MAX_CSR_BYTES {
        return Err(ApiError::invalid(format!(
            "CSR is larger than {} bytes",
            limits::MAX_CSR_BYTES
        )));
    }
    Ok(())
}

/// The error for a caller whose request was not signed.
pub(super) fn sign_error(summary: &str, error: &SignError) -> ApiError {
    match error {
        SignError::Audience(why) => ApiError::new(Code::InvalidArgument, summary, why),
        SignError::InvalidCsr(why) => ApiError::new(Code::InvalidArgument, "malformed CSR", why),
        SignError::Unavailable => ApiError::new(Code::Unavailable, summary, error),
        SignError::Internal(why) => {
            tracing::error!(error = %why, request = summary, "Signing failed");
            ApiError::new(Code::Internal, summary, error)
        }
    }
}

fn answer(signed: Option<Result<SignedSvid, SignError>>) -> BatchResult {
    let summary = "failed to sign X509-SVID";
    let signed = match signed {
        Some(signed) => signed.map_err(|error| sign_error(summary, &error)),
        // The authority answers every request. Should it not, the others keep their places.
        None => Err(ApiError::plain(Code::Internal, summary)),
    };
    match signed {
        Ok(issued) => BatchResult {
            status: Some(status::ok()),
            svid: Some((&issued).into()),
        },
        Err(error) => not_signed(error),
    }
}

fn not_signed(error: ApiError) -> BatchResult {
    BatchResult {
        status: Some(error.item()),
        svid: None,
    }
}
