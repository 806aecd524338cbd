//! What the tests play on: a trust domain, a service that hangs and streams, a server and its callers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use countersign_identity::bundle::{Bundle, BundleSet};
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::tls::{
    ALPN_H2, ALPN_HTTP11, ClientAuth, ExpectedPeer, TlsContext, TlsVersions,
};
use countersign_identity::{KeyType, PrivateKey, SigningKey, TrustDomain, UnixTime, X509Svid};
use countersign_transport::clock::{RustlsTime, TestClock};
use countersign_transport::dial::{ClientIo, TlsConnector};
use countersign_transport::drain::Drained;
use countersign_transport::presented::Identities;
use countersign_transport::serve::Http;
use countersign_transport::{Connection, Presented, ServeOptions, SharedClock, serve_tls};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A trust domain with one authority.
pub(crate) struct Domain {
    name: TrustDomain,
    ca: IssuingCa,
    clock: SharedClock,
}

impl Domain {
    pub(crate) fn new(name: &str, clock: SharedClock) -> Self {
        let name = TrustDomain::new(name).unwrap();
        let key: Arc<dyn SigningKey> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let ttl = 24 * HOUR;
        let root =
            self_signed_authority(&name, &Subject::authority(), &*key, ttl, clock.now()).unwrap();
        Self {
            name,
            ca: IssuingCa::new(root, Vec::new(), key).unwrap(),
            clock,
        }
    }

    pub(crate) fn svid(&self, path: &str, ttl: Duration) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = self.name.id_with_path(path).unwrap();
        let template = SvidTemplate {
            id: &id,
            dns_names: &[],
            ttl,
        };
        let issued = self
            .ca
            .issue(&template, &PublicKey::of(&key).unwrap(), self.clock.now())
            .unwrap();
        X509Svid::new(issued.chain, key).unwrap()
    }

    pub(crate) fn tls(&self) -> TlsContext {
        let mut bundle = Bundle::empty(self.name.clone());
        bundle.x509_authorities.push(self.ca.authority().clone());
        let bundles: BundleSet = [bundle].into_iter().collect();
        TlsContext::new(
            Arc::new(bundles),
            RustlsTime::shared(Arc::clone(&self.clock)),
        )
    }

    pub(crate) fn presented(&self, svid: &X509Svid, auth: ClientAuth) -> Arc<Presented> {
        let alpn = [ALPN_H2, ALPN_HTTP11];
        let config = self
            .tls()
            .server(svid, auth, ExpectedPeer::Anyone, TlsVersions::Only13, &alpn)
            .unwrap();
        Arc::new(Presented {
            config: Arc::new(config),
            id: svid.id().clone(),
            kid: svid.kid(),
            not_after: svid.not_after(),
        })
    }

    pub(crate) fn client(&self, svid: Option<&X509Svid>) -> Arc<rustls::ClientConfig> {
        Arc::new(
            self.tls()
                .client(svid, ExpectedPeer::Anyone, TlsVersions::Only13, &[ALPN_H2])
                .unwrap(),
        )
    }
}

/// What happens inside the service's handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// `/hang` was entered.
    Hanging,
    /// `/hang` was dropped before it answered.
    Dropped,
}

/// A service, and the ends that tests hold of it.
pub(crate) struct Play {
    pub(crate) router: Router,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    /// Chunks for the body of `/stream`, which is asked for once; its end ends the body.
    pub(crate) chunks: mpsc::UnboundedSender<Result<Bytes, Infallible>>,
}

struct SaysWhenDropped(mpsc::UnboundedSender<Seen>);

impl Drop for SaysWhenDropped {
    fn drop(&mut self) {
        drop(self.0.send(Seen::Dropped));
    }
}

impl Play {
    pub(crate) fn new() -> Self {
        let (say, seen) = mpsc::unbounded_channel();
        let (chunks, body) = mpsc::unbounded_channel();
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let router = Router::new()
            .route(
                "/who",
                get(
                    |Extension(connection): Extension<Arc<Connection>>| async move {
                        match &connection.peer {
                            Some(peer) => peer.id.to_string(),
                            None => connection.address.to_string(),
                        }
                    },
                ),
            )
            .route(
                "/hang",
                get(move || {
                    let say = say.clone();
                    async move {
                        let _dropped = SaysWhenDropped(say.clone());
                        say.send(Seen::Hanging).unwrap();
                        std::future::pending::<()>().await;
                    }
                }),
            )
            .route(
                "/stream",
                get(move || {
                    let body = body.lock().unwrap().take().unwrap();
                    async move { Body::from_stream(UnboundedReceiverStream::new(body)) }
                }),
            );
        Self {
            router,
            seen,
            chunks,
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) domain: Domain,
    pub(crate) clock: TestClock,
    pub(crate) identity: watch::Sender<Option<Arc<Presented>>>,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) chunks: mpsc::UnboundedSender<Result<Bytes, Infallible>>,
    pub(crate) stop: CancellationToken,
    pub(crate) end: JoinHandle<Drained>,
}

impl Server {
    /// Callers may come without a certificate; time stands still.
    pub(crate) async fn start(adjust: impl FnOnce(ServeOptions) -> ServeOptions) -> Self {
        Self::start_with(adjust, |router| router).await
    }

    pub(crate) async fn start_with(
        adjust: impl FnOnce(ServeOptions) -> ServeOptions,
        wrap: impl FnOnce(Router) -> Router,
    ) -> Self {
        let clock = TestClock::start(NOW);
        let domain = Domain::new("td", clock.shared());
        let first = domain.presented(&domain.svid("/server", HOUR), ClientAuth::Optional);
        let (identity, identities): (_, Identities) = watch::channel(Some(first));
        let Play {
            router,
            seen,
            chunks,
        } = Play::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = adjust(ServeOptions::new(Http::Auto, clock.shared()));
        let stop = CancellationToken::new();
        let router = wrap(router);
        let end = tokio::spawn(serve_tls(
            listener,
            Arc::new(identities),
            router,
            options,
            stop.clone(),
        ));
        Self {
            address,
            domain,
            clock,
            identity,
            seen,
            chunks,
            stop,
            end,
        }
    }

    pub(crate) fn connector(&self, config: Arc<rustls::ClientConfig>) -> TlsConnector {
        TlsConnector::new(config, &self.address.to_string(), self.clock.shared())
    }

    /// A caller with an SVID of this lifetime.
    pub(crate) async fn caller(&self, ttl: Duration) -> Caller {
        let svid = self.domain.svid("/caller", ttl);
        Caller::http2(
            self.connector(self.domain.client(Some(&svid)))
                .dial()
                .await
                .unwrap(),
        )
        .await
    }
}

/// One HTTP connection from the caller's side.
pub(crate) struct Caller {
    pub(crate) send: Send,
    /// Ends with the connection.
    pub(crate) connection: JoinHandle<Result<(), hyper::Error>>,
}

pub(crate) enum Send {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Caller {
    pub(crate) async fn http2(io: ClientIo) -> Self {
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (send, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
        Self {
            send: Send::Http2(send),
            connection: tokio::spawn(connection),
        }
    }

    pub(crate) async fn http1(io: ClientIo) -> Self {
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .unwrap();
        Self {
            send: Send::Http1(send),
            connection: tokio::spawn(connection),
        }
    }

    pub(crate) fn request(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> impl Future<Output = Result<Response<Incoming>, hyper::Error>> + std::marker::Send + use<>
    {
        match &mut self.send {
            Send::Http1(send) => futures::future::Either::Left(send.send_request(request)),
            Send::Http2(send) => futures::future::Either::Right(send.send_request(request)),
        }
    }

    pub(crate) fn get(
        &mut self,
        path: &str,
    ) -> impl Future<Output = Result<Response<Incoming>, hyper::Error>> + std::marker::Send + use<>
    {
        let uri = match self.send {
            Send::Http1(_) => path.to_owned(),
            Send::Http2(_) => format!("https://server{path}"),
        };
        self.request(
            Request::get(uri)
                .header("host", "server")
                .body(Empty::new())
                .unwrap(),
        )
    }

    /// The answer to a request, as text.
    pub(crate) async fn text(&mut self, path: &str) -> Result<String, hyper::Error> {
        let response = self.get(path).await?;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}
