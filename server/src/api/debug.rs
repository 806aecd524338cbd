//! The debug service: the server's own state (wire contract, A.14).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_identity::bundle::Bundles as _;
use countersign_identity::certificate::{CertificateSummary, InvalidCertificate};
use countersign_identity::verify::paths;
use countersign_proto::spire::api::server::debug::v1 as wire;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::status::ApiError;
use super::{Context, count};
use crate::index::{EntryFilter, NodeFilter};

/// How long a response is cached.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The service.
pub(super) struct DebugService {
    context: Arc<Context>,
    started: Instant,
    last: Mutex<Option<(Instant, wire::GetInfoResponse)>>,
}

impl DebugService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            started: Instant::now(),
            last: Mutex::default(),
        }
    }

    fn info(&self) -> Result<wire::GetInfoResponse, ApiError> {
        let index = &self.context.parts.index;
        Ok(wire::GetInfoResponse {
            svid_chain: self.svid_chain()?,
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: count(index.count_nodes(&NodeFilter::default())),
            federated_bundles_count: count(index.count_bundles()),
            entries_count: count(index.count_entries(&EntryFilter::default())),
        })
    }

    /// The server's own SVID with its chain, up to the root.
    fn svid_chain(&self) -> Result<Vec<wire::get_info_response::Cert>, ApiError> {
        let parts = &self.context.parts;
        let bundle = parts.index.bundle(parts.trust_domain.as_str());
        let bundle = bundle.ok_or_else(|| ApiError::not_found("trust domain bundle not found"))?;
        let failed = |cause: &dyn std::fmt::Display| {
            ApiError::new(Code::Internal, "failed verification against bundle", cause)
        };
        let presented = parts.server_svid.borrow().clone();
        let (leaf, intermediates) = presented
            .split_first()
            .ok_or_else(|| failed(&"the server has no SVID"))?;
        let found = paths(
            leaf,
            intermediates,
            &bundle.x509_authorities,
            parts.clock.now(),
        );
        let first = found.map_err(|e| failed(&e))?.into_iter().next();
        std::iter::once(leaf)
            .chain(first.iter().flatten())
            .map(|der| shown(der).map_err(|e| failed(&e)))
            .collect()
    }
}

fn shown(der: &[u8]) -> Result<wire::get_info_response::Cert, InvalidCertificate> {
    let CertificateSummary {
        id,
        not_after,
        subject,
    } = CertificateSummary::parse(der)?;
    Ok(wire::get_info_response::Cert {
        id: id.as_ref().map(Into::into),
        expires_at: not_after.as_i64(),
        subject,
    })
}

#[tonic::async_trait]
impl wire::debug_server::Debug for DebugService {
    async fn get_info(
        &self,
        _request: Request<wire::GetInfoRequest>,
    ) -> Result<Response<wire::GetInfoResponse>, Status> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, info)) = last.as_ref()
            && at.elapsed() < REMEMBERED
        {
            return Ok(Response::new(info.clone()));
        }
        let info = self.info()?;
        *last = Some((Instant::now(), info.clone()));
        Ok(Response::new(info))
    }
}
