//! The debug service: the node agent's own state (wire contract, F.8).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_identity::certificate::CertificateSummary;
use countersign_identity::verify::paths;
use countersign_identity::{Bundle, UnixTime, X509Svid};
use countersign_proto::spire::agent::debug::v1 as wire;
use countersign_transport::SharedClock;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::super::Sources;
use crate::jwt::JwtSvids;
use crate::sync::Feed;

/// How long a response is cached.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone)]
pub(super) struct Debug(Arc<DebugState>);

struct DebugState {
    feed: Feed,
    jwt_svids: JwtSvids,
    clock: SharedClock,
    started: Instant,
    last: Mutex<Option<(Instant, wire::GetInfoResponse)>>,
}

impl Debug {
    /// The service, with uptime counted from now.
    pub(super) fn new(sources: &Sources) -> Self {
        Self(Arc::new(DebugState {
            feed: sources.feed.clone(),
            jwt_svids: sources.jwt_svids.clone(),
            clock: Arc::clone(&sources.clock),
            started: Instant::now(),
            last: Mutex::default(),
        }))
    }

    fn look(&self) -> Result<wire::GetInfoResponse, Status> {
        let DebugState {
            feed,
            jwt_svids,
            clock,
            started,
            last: _,
        } = &*self.0;
        let identity = jwt_svids.server().and_then(|server| server.identity());
        let (Some(snapshot), Some(identity)) = (feed.current(), identity) else {
            return Err(Status::unavailable(
                "the node agent has not synced with the server yet",
            ));
        };
        let svids = count(snapshot.signed());
        #[expect(deprecated, reason = "older versions of SPIRE's command line read it")]
        let info = wire::GetInfoResponse {
            svid_chain: chain(&identity, snapshot.own_bundle(), clock.now())?,
            uptime: count(started.elapsed().as_secs()),
            svids_count: svids,
            last_sync_success: feed.synced_at().as_i64(),
            cached_x509_svids_count: svids,
            cached_jwt_svids_count: count(jwt_svids.count()),
            cached_svidstore_x509_svids_count: 0,
        };
        Ok(info)
    }
}

fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// The node's own SVID with its chain, up to the root.
fn chain(
    svid: &X509Svid,
    bundle: &Bundle,
    now: UnixTime,
) -> Result<Vec<wire::get_info_response::Cert>, Status> {
    let failed = |cause: &dyn std::fmt::Display| {
        Status::internal(format!("failed to verify agent SVID: {cause}"))
    };
    let (leaf, above) = svid
        .chain()
        .split_first()
        .ok_or_else(|| failed(&"it is empty"))?;
    let found = paths(leaf, above, &bundle.x509_authorities, now).map_err(|e| failed(&e))?;
    std::iter::once(leaf)
        .chain(found.first().into_iter().flatten())
        .map(|der| {
            let CertificateSummary {
                id,
                not_after,
                subject,
            } = CertificateSummary::parse(der).map_err(|e| failed(&e))?;
            Ok(wire::get_info_response::Cert {
                id: id.as_ref().map(Into::into),
                expires_at: not_after.as_i64(),
                subject,
            })
        })
        .collect()
}

#[tonic::async_trait]
impl wire::debug_server::Debug for Debug {
    async fn get_info(
        &self,
        _: Request<wire::GetInfoRequest>,
    ) -> Result<Response<wire::GetInfoResponse>, Status> {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, info)) = last.as_ref()
            && at.elapsed() < REMEMBERED
        {
            return Ok(Response::new(info.clone()));
        }
        let info = self.look()?;
        *last = Some((Instant::now(), info.clone()));
        Ok(Response::new(info))
    }
}
