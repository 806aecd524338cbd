//! Node agents: attestation, renewal and their administration.

use std::sync::Arc;

use countersign_identity::entry::AdditionalAttributes;
use countersign_identity::node::Credential;
use countersign_identity::{Entry, EntryId, Node, Selector, SpiffeId, UnixTime};
use countersign_proto::convert::agent::masked;
use countersign_proto::spire::api::server::agent::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_store::{NodeError, TokenExists};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::audit::Note;
use super::status::{self, ApiError};
use super::{Context, client_address, count, filter, id, paging, svid};
use crate::limits;
use crate::node_attestor::{JoinToken, evict};

mod attest;

pub(super) use attest::Attesting;

/// The service.
pub(super) struct AgentService(pub(super) Arc<Context>);

const NOT_FOUND: &str = "agent not found";

impl AgentService {
    /// An agent's ID in this trust domain.
    fn agent_id(&self, id: Option<types::Spiffeid>) -> Result<SpiffeId, ApiError> {
        id::agent(id, &self.0.parts.trust_domain)
            .map_err(|why| ApiError::new(Code::InvalidArgument, "invalid agent ID", why))
    }

    async fn delete(&self, id: &SpiffeId) -> Result<(), ApiError> {
        let parts = &self.0.parts;
        let always = |_: &Node| true;
        let deleted = evict(&parts.store, &parts.index, id, &always).await;
        let deleted = deleted.map_err(|e| node_error("failed to remove agent", e))?;
        parts.index.visible(deleted).await?;
        tracing::info!(agent_id = %id, "Agent deleted");
        Ok(())
    }

    async fn ban(&self, id: &SpiffeId) -> Result<(), ApiError> {
        let parts = &self.0.parts;
        let banned = parts
            .store
            .node_banned(id)
            .await
            .map_err(|e| node_error("failed to ban agent", e))?;
        parts.index.visible(banned).await?;
        tracing::info!(agent_id = %id, "Agent banned");
        Ok(())
    }

    async fn renew(
        &self,
        id: &SpiffeId,
        params: Option<wire::AgentX509svidParams>,
    ) -> Result<types::X509svid, Status> {
        let parts = &self.0.parts;
        let node = parts
            .index
            .node(id)
            .ok_or_else(|| ApiError::not_found(NOT_FOUND))?;
        if node.value.can_reattest {
            let message = "agent must reattest instead of renew";
            return Err(status::denied(message, Reason::AgentMustReattest));
        }
        let wire::AgentX509svidParams { csr } =
            params.ok_or_else(|| ApiError::invalid("missing X509-SVID parameters"))?;
        svid::check_csr(&csr)?;
        let issued = parts
            .authority
            .sign_agent(id, csr)
            .await
            .map_err(|e| svid::sign_error("failed to sign X509 SVID", &e))?;
        let pending = Credential {
            serial: issued.serial.clone(),
            expires_at: issued.expires_at,
        };
        let renewed = parts
            .store
            .node_renewed(id, pending)
            .await
            .map_err(|e| node_error("failed to update agent", e))?;
        parts.index.visible(renewed).await.map_err(ApiError::from)?;
        tracing::info!(agent_id = %id, expires_at = %issued.expires_at, "Agent SVID renewed");
        Ok((&issued).into())
    }

    async fn create_token(
        &self,
        request: wire::CreateJoinTokenRequest,
        note: &Note,
    ) -> Result<types::JoinToken, ApiError> {
        let wire::CreateJoinTokenRequest {
            ttl,
            token,
            agent_id,
        } = request;
        let parts = &self.0.parts;
        let td = &parts.trust_domain;
        let ttl = u64::try_from(ttl).unwrap_or(0);
        if ttl == 0 {
            return Err(ApiError::invalid("ttl is required, you must provide one"));
        }
        let agent_id = agent_id
            .map(|id| id::workload(Some(id), td))
            .transpose()
            .map_err(|e| ApiError::new(Code::InvalidArgument, "invalid agent ID", e))?;
        // The audit log gets the second ID, never the token: it is a secret until it is used.
        agent_id.iter().for_each(|id| note.about(id));
        let value = if token.is_empty() {
            uuid::Uuid::new_v4().to_string()
        } else {
            token
        };
        let node = Some(&value)
            .filter(|value| value.len() <= limits::MAX_JOIN_TOKEN_BYTES)
            .and_then(|value| JoinToken::node_id(td, value))
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "invalid token: it becomes part of the agent's SPIFFE ID, so it may have at most {} letters, \
                     numbers, dots, dashes and underscores",
                    limits::MAX_JOIN_TOKEN_BYTES
                ))
            })?;
        let now = parts.clock.now();
        let expires_at = now.after(std::time::Duration::from_secs(ttl));
        let alias = agent_id.map(|id| token_entry(id, node, now)).transpose()?;
        let created = parts
            .store
            .token_create(&value, expires_at, alias.as_ref())
            .await;
        let created = created.map_err(|error| match error {
            TokenExists::Store(error) => ApiError::store("failed to create token", &error),
            TokenExists::Exists => ApiError::new(Code::Internal, "failed to create token", error),
        })?;
        parts.index.visible(created).await?;
        Ok(types::JoinToken {
            value,
            expires_at: expires_at.as_i64(),
        })
    }

    async fn note_version(&self, id: &SpiffeId, version: &str) -> Result<(), ApiError> {
        if version.len() > limits::MAX_AGENT_VERSION_BYTES {
            let limit = limits::MAX_AGENT_VERSION_BYTES;
            return Err(ApiError::invalid(format!(
                "agent version is longer than {limit} bytes"
            )));
        }
        if version.chars().any(char::is_control) {
            // It is shown to admins, line by line.
            return Err(ApiError::invalid("agent version has control characters"));
        }
        let parts = &self.0.parts;
        let node = parts
            .index
            .node(id)
            .ok_or_else(|| ApiError::not_found(NOT_FOUND))?;
        if version.is_empty() || node.value.agent_version == version {
            return Ok(());
        }
        let written = parts
            .store
            .node_versioned(id, version)
            .await
            .map_err(|e| node_error("failed to update agent", e))?;
        parts.index.visible(written).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl wire::agent_server::Agent for AgentService {
    type AttestAgentStream = ReceiverStream<Result<wire::AttestAgentResponse, Status>>;

    async fn count_agents(
        &self,
        request: Request<wire::CountAgentsRequest>,
    ) -> Result<Response<wire::CountAgentsResponse>, Status> {
        let wire::CountAgentsRequest { filter } = request.into_inner();
        let filter = filter::nodes(filter, "failed to count agents")?;
        let count = count(self.0.parts.index.count_nodes(&filter));
        Ok(Response::new(wire::CountAgentsResponse { count }))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let summary = "failed to list agents";
        let wire::ListAgentsRequest {
            filter,
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let filter = filter::nodes(filter.map(Into::into), summary)?;
        let page = paging::requested(page_size, &page_token, summary)?;
        let records = self.0.parts.index.nodes(&filter, page);
        let next_page_token = paging::next(page, records.last().map(|record| record.created));
        let agents = records
            .iter()
            .map(|record| masked((&record.value).into(), output_mask.as_ref()))
            .collect();
        Ok(Response::new(wire::ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let note = Note::of(request.extensions());
        let wire::GetAgentRequest { id, output_mask } = request.into_inner();
        let id = self.agent_id(id)?;
        note.about(&id);
        let node = self.0.parts.index.node(&id);
        let node = node.ok_or_else(|| ApiError::not_found(NOT_FOUND))?;
        Ok(Response::new(masked(
            (&node.value).into(),
            output_mask.as_ref(),
        )))
    }

    async fn delete_agent(
        &self,
        request: Request<wire::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let note = Note::of(request.extensions());
        let wire::DeleteAgentRequest { id } = request.into_inner();
        let id = self.agent_id(id)?;
        note.about(&id);
        self.delete(&id).await?;
        Ok(Response::new(()))
    }

    async fn ban_agent(
        &self,
        request: Request<wire::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let note = Note::of(request.extensions());
        let wire::BanAgentRequest { id } = request.into_inner();
        let id = self.agent_id(id)?;
        note.about(&id);
        self.ban(&id).await?;
        Ok(Response::new(()))
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<wire::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        if self.0.parts.rate_limits.attestation {
            Context::limit(&self.0.attestations, &request, 1).await?;
        }
        let caller = attest::Origin {
            address: client_address(&request),
            note: Note::of(request.extensions()),
        };
        let answers = attest::start(Arc::clone(&self.0), request.into_inner(), caller);
        Ok(Response::new(answers))
    }

    async fn renew_agent(
        &self,
        request: Request<wire::RenewAgentRequest>,
    ) -> Result<Response<wire::RenewAgentResponse>, Status> {
        if self.0.parts.rate_limits.signing {
            Context::limit(&self.0.signatures, &request, 1).await?;
        }
        let id = Context::agent(&request)?;
        let wire::RenewAgentRequest { params } = request.into_inner();
        let svid = Some(self.renew(&id, params).await?);
        Ok(Response::new(wire::RenewAgentResponse { svid }))
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let note = Note::of(request.extensions());
        Ok(Response::new(
            self.create_token(request.into_inner(), &note).await?,
        ))
    }

    async fn post_status(
        &self,
        request: Request<wire::PostStatusRequest>,
    ) -> Result<Response<wire::PostStatusResponse>, Status> {
        Context::limit(&self.0.status_posts, &request, 1).await?;
        let id = Context::agent(&request)?;
        let wire::PostStatusRequest {
            current_bundle_serial: _,
            agent_version,
        } = request.into_inner();
        self.note_version(&id, &agent_version).await?;
        Ok(Response::new(wire::PostStatusResponse {}))
    }
}

fn node_error(summary: &str, error: NodeError) -> ApiError {
    match error {
        NodeError::Missing => ApiError::not_found(NOT_FOUND),
        NodeError::Banned => ApiError::new(Code::PermissionDenied, summary, "agent is banned"),
        NodeError::Store(error) => ApiError::store(summary, &error),
    }
}

/// The entry that gives the node of a join token a second ID.
fn token_entry(spiffe_id: SpiffeId, node: SpiffeId, now: UnixTime) -> Result<Entry, ApiError> {
    let internal = |e: &dyn std::fmt::Display| {
        ApiError::new(
            Code::Internal,
            "failed to create join token registration entry",
            e,
        )
    };
    let selector = Selector::new("spiffe_id", node.as_str()).map_err(|e| internal(&e))?;
    Ok(Entry {
        id: EntryId::new(&uuid::Uuid::new_v4().to_string()).map_err(|e| internal(&e))?,
        spiffe_id,
        parent_id: node,
        selectors: std::iter::once(selector).collect(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        revision_number: 0,
        created_at: now,
        hint: String::new(),
        attributes: AdditionalAttributes::default(),
    })
}
