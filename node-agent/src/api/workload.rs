//! The SPIFFE Workload API (wire contract, F.1 to F.3): X.509 here, JWT in [`jwt`].

pub(in crate::api) mod jwt;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use countersign_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use countersign_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use countersign_transport::SharedClock;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::caller::{Callers, check_security_header, no_identity};
use super::rates::Method;
use super::stream::{Answers, Next, answers, distinct_answers};
use crate::config::VerifierConfig;
use crate::jwt::JwtSvids;
use crate::sync::{Snapshot, Subscription, WorkloadAnswer};

/// The service.
#[derive(Clone)]
pub(super) struct WorkloadApi {
    callers: Callers,
    jwt_svids: JwtSvids,
    verifiers: Arc<VerifierConfig>,
    clock: SharedClock,
    stop: CancellationToken,
}

impl WorkloadApi {
    /// Serves these callers, until `stop` is cancelled.
    pub(super) fn new(
        callers: Callers,
        jwt_svids: JwtSvids,
        verifiers: VerifierConfig,
        clock: SharedClock,
        stop: CancellationToken,
    ) -> Self {
        Self {
            callers,
            jwt_svids,
            verifiers: Arc::new(verifiers),
            clock,
            stop,
        }
    }
}

impl WorkloadApi {
    /// A stream of bundles for callers that may verify others; the same bundles are not sent again.
    async fn bundles<Q, M>(
        &self,
        request: &Request<Q>,
        method: Method,
        make: fn(&Snapshot, &Subscription, bool) -> Next<M>,
    ) -> Result<Response<Answers<M>>, Status>
    where
        M: Clone + PartialEq + Send + Sync + 'static,
    {
        check_security_header(request.metadata())?;
        let admitted = self.callers.admit(request, method).await?;
        let allow_unauthenticated = self.verifiers.allow_unauthenticated;
        Ok(Response::new(distinct_answers(
            admitted,
            self.stop.clone(),
            move |snapshot, subscription| make(snapshot, subscription, allow_unauthenticated),
        )))
    }
}

fn x509_svids(snapshot: &Snapshot, subscription: &Subscription) -> Next<X509svidResponse> {
    let identities = match snapshot.answer(subscription.selectors()) {
        WorkloadAnswer::NoIdentity => return Next::End(no_identity(snapshot)),
        WorkloadAnswer::NotSigned => return Next::Wait,
        WorkloadAnswer::Identities(identities) => identities,
    };
    let svids = identities
        .iter()
        .map(|(entry, svid)| X509svid {
            spiffe_id: entry.spiffe_id.to_string(),
            x509_svid: svid.chain().clone(),
            x509_svid_key: svid.key().clone(),
            bundle: snapshot.bundle().clone(),
            hint: entry.hint.clone(),
        })
        .collect();
    let federated_bundles = federated(snapshot, subscription);
    Next::Send(X509svidResponse {
        svids,
        crl: Vec::new(),
        federated_bundles,
    })
}

fn x509_bundles(
    snapshot: &Snapshot,
    subscription: &Subscription,
    allow_unauthenticated: bool,
) -> Next<X509BundlesResponse> {
    if may_not_verify(snapshot, subscription, allow_unauthenticated) {
        return Next::End(no_identity(snapshot));
    }
    let mut bundles = federated(snapshot, subscription);
    bundles.insert(
        snapshot.trust_domain().id().to_string(),
        snapshot.bundle().clone(),
    );
    Next::Send(X509BundlesResponse {
        crl: Vec::new(),
        bundles,
    })
}

fn may_not_verify(
    snapshot: &Snapshot,
    subscription: &Subscription,
    allow_unauthenticated: bool,
) -> bool {
    !allow_unauthenticated && snapshot.matching(subscription.selectors()).is_empty()
}

/// Keyed by `spiffe://<trust domain>`, without our own trust domain.
fn federated(snapshot: &Snapshot, subscription: &Subscription) -> HashMap<String, Bytes> {
    snapshot
        .federated(subscription.selectors())
        .into_iter()
        .map(|(td, bundle)| (td.id().to_string(), bundle.clone()))
        .collect()
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_security_header(request.metadata())?;
        let admitted = self.callers.admit(&request, Method::X509Svid).await?;
        Ok(Response::new(answers(
            admitted,
            self.stop.clone(),
            x509_svids,
        )))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.bundles(&request, Method::X509Bundles, x509_bundles)
            .await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.jwt_svids_for(request).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.bundles(&request, Method::JwtBundles, jwt::bundles)
            .await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.validated(request).await.map(Response::new)
    }
}
