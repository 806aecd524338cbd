//! A node agent for tests: the real Workload API on a real Unix socket, saying what the test tells it to.

use std::path::PathBuf;
use std::pin::Pin;

use countersign_identity::bundle::Bundles as _;
use countersign_identity::{BundleSet, X509Svid};
use countersign_proto::spiffe::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use countersign_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use futures::{Stream, StreamExt as _};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

/// What the agent says to everyone.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// It does not know yet.
    NotYet,
    /// The caller is nobody.
    NoIdentity,
    /// SVIDs and bundles.
    Svids(X509svidResponse),
}

/// The agent; it is away once dropped.
pub(crate) struct Agent {
    pub(crate) say: watch::Sender<Says>,
    pub(crate) endpoint: String,
    server: AbortHandle,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Agent {
    /// Starts on a socket in this folder, in place of an earlier one.
    pub(crate) fn start(folder: &tempfile::TempDir, says: Says) -> Self {
        let path: PathBuf = folder.path().join("agent.sock");
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let (say, said) = watch::channel(says);
        let serving = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(Service(said)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(serving).abort_handle();
        Self {
            say,
            endpoint: format!("unix://{}", path.display()),
            server,
        }
    }
}

/// The answer with these SVIDs, each with a hint, and all bundles.
pub(crate) fn svids(svids: &[(&X509Svid, &str)], bundles: &BundleSet) -> Says {
    let own = svids[0].0.id().trust_domain();
    let listed = svids.iter().map(|(svid, hint)| X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain_der().into(),
        x509_svid_key: svid.key().to_pkcs8().to_vec().into(),
        bundle: bundles.bundle(own.as_str()).unwrap().x509_der().into(),
        hint: (*hint).to_owned(),
    });
    let federated = bundles.iter().filter(|bundle| bundle.trust_domain != own);
    Says::Svids(X509svidResponse {
        svids: listed.collect(),
        crl: Vec::new(),
        federated_bundles: federated
            .map(|bundle| {
                (
                    format!("spiffe://{}", bundle.trust_domain),
                    bundle.x509_der().into(),
                )
            })
            .collect(),
    })
}

struct Service(watch::Receiver<Says>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Boxed<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument(
                "security header missing from request",
            ));
        }
        let answers = WatchStream::new(self.0.clone()).map(|says| match says {
            Says::NotYet => Err(Status::unavailable("not synced yet")),
            Says::NoIdentity => Err(Status::permission_denied("no identity issued")),
            Says::Svids(response) => Ok(response),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type FetchX509BundlesStream = Boxed<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type FetchJWTBundlesStream = Boxed<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}
