//! The delegated identity API: SVIDs of workloads for authorised delegates (wire contract, F.8).
//!
//! The caller is attested like a workload, and one of its entries must name an authorised delegate. That is checked
//! again before each response, so that a delegate that loses its entry gets nothing more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use countersign_identity::{Bundle, SelectorSet};
use countersign_proto::convert::selector;
use countersign_proto::spire::api::agent::delegatedidentity::v1 as wire;
use countersign_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_server::DelegatedIdentity;
use countersign_proto::spire::api::types;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::super::caller::{Admitted, Callers, no_identity};
use super::super::stream::{Answers, Next, answers, distinct_answers};
use super::super::workload::jwt::{check_audience, jwks, not_fetched};
use crate::config::Delegates;
use crate::entry::AuthorizedEntry;
use crate::jwt::JwtSvids;
use crate::limits;
use crate::sync::snapshot::ServedEntry;
use crate::sync::{Snapshot, Subscription};

/// The service.
#[derive(Clone)]
pub(super) struct Delegated {
    pub(super) callers: Callers,
    pub(super) jwt_svids: JwtSvids,
    pub(super) delegates: Delegates,
    pub(super) stop: CancellationToken,
}

/// An attested caller that may be a delegate.
#[derive(Clone)]
struct Delegate {
    selectors: Arc<SelectorSet>,
    delegates: Delegates,
}

impl Delegate {
    /// Whether it is authorised now.
    fn check(&self, snapshot: &Snapshot) -> Result<(), Status> {
        let entries = snapshot.matching(&self.selectors);
        if entries.is_empty() {
            return Err(no_identity(snapshot));
        }
        let authorized = |served: &&ServedEntry| self.delegates.contains(&served.entry.spiffe_id);
        if entries.iter().any(authorized) {
            return Ok(());
        }
        Err(Status::permission_denied(
            "caller not configured as an authorized delegate",
        ))
    }
}

impl Delegated {
    async fn delegate<T>(&self, request: &Request<T>) -> Result<(Admitted, Delegate), Status> {
        let admitted = self.callers.admit(request, None).await?;
        let delegate = Delegate {
            selectors: Arc::new(admitted.subscription.selectors().clone()),
            delegates: Arc::clone(&self.delegates),
        };
        delegate.check(&*admitted.snapshot()?)?;
        Ok((admitted, delegate))
    }

    /// The selectors of the workload in question: given by the delegate and trusted as they are, or attested from a
    /// PID.
    async fn target(
        &self,
        selectors: Vec<types::Selector>,
        pid: i32,
    ) -> Result<SelectorSet, Status> {
        if selectors.is_empty() == (pid == 0) {
            return Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            ));
        }
        if selectors.len() > limits::DELEGATED_SELECTORS {
            return Err(Status::invalid_argument(format!(
                "at most {} selectors can be given",
                limits::DELEGATED_SELECTORS
            )));
        }
        if pid == 0 {
            return selector::set(selectors)
                .map_err(|_| Status::invalid_argument("could not parse provided selectors"));
        }
        self.callers.attest_process(pid).await
    }
}

fn x509_svids(
    snapshot: &Snapshot,
    subscription: &Subscription,
    delegate: &Delegate,
) -> Next<wire::SubscribeToX509sviDsResponse> {
    if let Err(status) = delegate.check(snapshot) {
        return Next::End(status);
    }
    let selectors = subscription.selectors();
    let mut x509_svids = Vec::new();
    for served in snapshot.matching(selectors) {
        let Some(svid) = &served.svid else {
            return Next::Wait;
        };
        if served.entry.privileged {
            continue;
        }
        let chain = svid.svid().chain();
        x509_svids.push(wire::X509svidWithKey {
            x509_svid: Some(types::X509svid {
                cert_chain: chain
                    .iter()
                    .map(|der| Bytes::copy_from_slice(der))
                    .collect(),
                id: Some((&served.entry.spiffe_id).into()),
                expires_at: svid.svid().not_after().as_i64(),
                hint: served.entry.hint.clone(),
            }),
            x509_svid_key: svid.key().clone(),
        });
    }
    let federates_with = snapshot.federated(selectors).into_keys();
    Next::Send(wire::SubscribeToX509sviDsResponse {
        x509_svids,
        federates_with: federates_with.map(|td| td.id().to_string()).collect(),
    })
}

/// All bundles that were known since the stream began: the newest of each.
#[derive(Default)]
struct KnownBundles(Mutex<BTreeMap<String, Bytes>>);

impl KnownBundles {
    fn with(
        &self,
        snapshot: &Snapshot,
        form: impl Fn(&Bundle) -> Option<Bytes>,
    ) -> BTreeMap<String, Bytes> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(snapshot.own_bundle()).chain(snapshot.foreign_bundles());
        for bundle in all {
            if let Some(bytes) = form(bundle) {
                known.insert(bundle.trust_domain.id().to_string(), bytes);
            }
        }
        known.clone()
    }
}

impl Delegated {
    /// A stream of all bundles of this node, in one form; the same bundles are not sent again.
    async fn bundles<Q, M>(
        &self,
        request: &Request<Q>,
        form: fn(&Bundle) -> Option<Bytes>,
        message: fn(BTreeMap<String, Bytes>) -> M,
    ) -> Result<Response<Answers<M>>, Status>
    where
        M: Clone + PartialEq + Send + Sync + 'static,
    {
        let (admitted, delegate) = self.delegate(request).await?;
        let known = KnownBundles::default();
        Ok(Response::new(distinct_answers(
            admitted.about_everything(),
            self.stop.clone(),
            move |snapshot, _| match delegate.check(snapshot) {
                // A delegate that lost its entry gets nothing more.
                Err(status) => Next::End(status),
                Ok(()) => Next::Send(message(known.with(snapshot, form))),
            },
        )))
    }
}

#[tonic::async_trait]
impl DelegatedIdentity for Delegated {
    type SubscribeToX509SVIDsStream = Answers<wire::SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Answers<wire::SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Answers<wire::SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<wire::SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let (admitted, delegate) = self.delegate(&request).await?;
        let wire::SubscribeToX509sviDsRequest { selectors, pid } = request.into_inner();
        let target = self.target(selectors, pid).await?;
        Ok(Response::new(answers(
            admitted.about(target),
            self.stop.clone(),
            move |snapshot, subscription| x509_svids(snapshot, subscription, &delegate),
        )))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<wire::SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let x509 = |bundle: &Bundle| Some(bundle.x509_der().into());
        self.bundles(&request, x509, |bundles| {
            wire::SubscribeToX509BundlesResponse {
                ca_certificates: bundles.into_iter().collect(),
            }
        })
        .await
    }

    async fn fetch_jwtsvi_ds(
        &self,
        request: Request<wire::FetchJwtsviDsRequest>,
    ) -> Result<Response<wire::FetchJwtsviDsResponse>, Status> {
        check_audience(&request.get_ref().audience)?;
        let (admitted, _) = self.delegate(&request).await?;
        let wire::FetchJwtsviDsRequest {
            audience,
            selectors,
            pid,
        } = request.into_inner();
        let target = self.target(selectors, pid).await?;
        let snapshot = admitted.snapshot()?;
        let entries: Vec<Arc<AuthorizedEntry>> = snapshot
            .matching(&target)
            .into_iter()
            .filter(|served| !served.entry.privileged)
            .map(|served| Arc::clone(&served.entry))
            .collect();
        if entries.is_empty() {
            return Err(no_identity(&snapshot));
        }
        let fetches = entries.iter().map(async |entry| {
            let svid = self.jwt_svids.get(entry, &audience, admitted.uid).await;
            let svid = svid.map_err(|error| not_fetched(entry, &error))?;
            Ok::<_, Status>(types::Jwtsvid {
                token: svid.token.to_string(),
                id: Some((&svid.id).into()),
                expires_at: svid.expires_at.as_i64(),
                issued_at: svid.issued_at.as_i64(),
                hint: entry.hint.clone(),
            })
        });
        let svids = futures::future::try_join_all(fetches).await?;
        Ok(Response::new(wire::FetchJwtsviDsResponse { svids }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<wire::SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        self.bundles(&request, jwks, |bundles| {
            wire::SubscribeToJwtBundlesResponse {
                bundles: bundles.into_iter().collect(),
            }
        })
        .await
    }
}
