//! The SPIFFE Workload API (wire contract, F.1 to F.3).

use std::collections::HashMap;

use bytes::Bytes;
use countersign_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use countersign_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::caller::{Place, Streams, attest, check_security_header, unix_caller};
use super::stream::{Answers, Next, Repeats, answers};
use crate::selectors::Attestors;
use crate::sync::{Answer, Feed, Snapshot, Subscription};

/// The service.
#[derive(Clone)]
pub struct WorkloadApi {
    feed: Feed,
    attestors: Attestors,
    streams: Streams,
    stop: CancellationToken,
}

impl WorkloadApi {
    /// Serves what is in the feed to whom the attestors recognise, until `stop` is cancelled.
    #[must_use]
    pub fn new(feed: Feed, attestors: Attestors, stop: CancellationToken) -> Self {
        Self {
            feed,
            attestors,
            streams: Streams::default(),
            stop,
        }
    }

    /// What all streams have in common before their first answer.
    async fn admit<T>(&self, request: &Request<T>) -> Result<(Subscription, Place), Status> {
        check_security_header(request.metadata())?;
        if self.feed.current().is_none() {
            return Err(Status::unavailable(
                "the node agent has not synced with the server yet",
            ));
        }
        let caller = unix_caller(request)?;
        let place = self
            .streams
            .enter(caller.pid.unwrap_or_default(), caller.uid)?;
        let selectors = attest(&self.attestors, &caller).await?;
        tracing::debug!(
            pid = caller.pid,
            selectors = selectors.len(),
            "Workload attested"
        );
        Ok((self.feed.subscribe(selectors), place))
    }
}

/// The words are SPIRE's: clients look for them.
fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

fn x509_svids(snapshot: &Snapshot, subscription: &Subscription) -> Next<X509svidResponse> {
    let identities = match snapshot.answer(subscription.selectors()) {
        Answer::NoIdentity => return Next::End(no_identity()),
        Answer::NotSigned => return Next::Wait,
        Answer::Identities(identities) => identities,
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

fn x509_bundles(snapshot: &Snapshot, subscription: &Subscription) -> Next<X509BundlesResponse> {
    if snapshot.matching(subscription.selectors()).is_empty() {
        return Next::End(no_identity());
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

/// Keyed by `spiffe://<trust domain>`; the own trust domain is not among them.
fn federated(snapshot: &Snapshot, subscription: &Subscription) -> HashMap<String, Bytes> {
    snapshot
        .federated(subscription.selectors())
        .into_iter()
        .map(|(td, bundle)| (td.id().to_string(), bundle.clone()))
        .collect()
}

fn not_supported<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "JWT-SVIDs are not supported by this node agent yet",
    ))
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
        let (subscription, place) = self.admit(&request).await?;
        Ok(Response::new(answers(
            subscription,
            place,
            self.stop.clone(),
            Repeats::Sent,
            x509_svids,
        )))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let (subscription, place) = self.admit(&request).await?;
        Ok(Response::new(answers(
            subscription,
            place,
            self.stop.clone(),
            Repeats::LeftOut,
            x509_bundles,
        )))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check_security_header(request.metadata())?;
        not_supported()
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check_security_header(request.metadata())?;
        not_supported()
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_security_header(request.metadata())?;
        not_supported()
    }
}
