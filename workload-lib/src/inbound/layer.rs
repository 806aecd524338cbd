//! The tower layer that decides about each request, and keeps hold of what it permitted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

#[cfg(feature = "axum")]
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_mesh::refusal::{REFUSAL_HEADER, loggable};
use countersign_mesh::{Carrier, InboundRequest, PeerView, Permit, Reason, Refusal};
use countersign_transport::{Connection, grpc};
use http::{Extensions, Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::peer::{PeerInfo, Permitted};
use super::{answer, fields};
use crate::context::{Context, Current};
use crate::error::BoxError;
use crate::event::Event;
use crate::exchange::{Exchange, ExchangeBody};
use crate::mesh::Mesh;

/// The layer that decides about each request: see [`Mesh::inbound_layer`].
///
/// # Examples
/// An axum server of your own:
/// ```
/// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::get};
/// use countersign::PeerInfo;
/// use tower::Layer as _;
///
/// let router = Router::new().route("/status", get(async || "ready"));
/// let router = Router::new().fallback_service(mesh.inbound_layer().layer(router));
/// let listener = mesh.listener(tokio::net::TcpListener::bind("0.0.0.0:8443").await?)?;
/// axum::serve(listener, router.into_make_service_with_connect_info::<PeerInfo>()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InboundLayer {
    mesh: Mesh,
}

impl InboundLayer {
    pub(super) const fn new(mesh: Mesh) -> Self {
        Self { mesh }
    }
}

impl<S> Layer<S> for InboundLayer {
    type Service = Inbound<S>;

    fn layer(&self, inner: S) -> Inbound<S> {
        Inbound {
            mesh: self.mesh.clone(),
            inner,
        }
    }
}

/// A service behind the inbound layer.
#[derive(Clone, Debug)]
pub struct Inbound<S> {
    mesh: Mesh,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Inbound<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let carrier = fields::carrier(request.headers());
        let admitted = match admit(&self.mesh, &mut request, carrier) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let answer = answer::refused(&refusal, carrier);
                return Box::pin(async { Ok(answer) });
            }
        };
        // The clone that was polled ready is the one that is called.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(admitted.serve(inner, request, carrier))
    }
}

/// A request that may be served.
struct Admitted {
    exchange: Arc<Exchange>,
    current: Current,
    /// Whose time ends first: the caller's own timeout, or the chain's deadline.
    first_end: FirstEnd,
}

#[derive(Clone, Copy)]
enum FirstEnd {
    Timeout,
    Deadline,
}

/// Decides about a request, and prepares it for its handler.
fn admit<B>(mesh: &Mesh, request: &mut Request<B>, carrier: Carrier) -> Result<Admitted, Refusal> {
    let taken = fields::ChainFields::take(request.headers_mut());
    let connection = connection(request.extensions());
    if let Some(connection) = &connection {
        let peer = PeerInfo(Arc::clone(connection));
        request.extensions_mut().insert(peer);
    }
    let Some((connection, peer, presented)) = connection.and_then(|connection| {
        let (peer, presented) = (connection.peer.clone()?, connection.presented.clone()?);
        Some((connection, peer, presented))
    }) else {
        let refusal = Refusal::new(
            Reason::NoPeerIdentity,
            "the request came over a connection without a verified peer",
        );
        return Err(report(mesh, refusal, None, request));
    };
    let view = PeerView {
        id: &peer.id,
        kid: peer.kid,
        chain: &peer.chain,
        not_after: peer.not_after,
    };
    let inbound = InboundRequest {
        peer: Some(view),
        presented: &presented.id,
        method: request.method().as_str(),
        path: fields::path(request),
        carrier,
        fields: taken.view(),
    };
    let permit = mesh
        .engine()
        .decide(&mesh.policy(), &inbound, mesh.now())
        .map_err(|refusal| report(mesh, refusal, Some(&peer.id), request))?;
    Ok(prepare(mesh, request, permit, &connection, carrier))
}

/// The connection of a request, as this crate's server, tonic's or axum's put it into the extensions.
fn connection(extensions: &Extensions) -> Option<Arc<Connection>> {
    if let Some(connection) = extensions.get::<Arc<Connection>>() {
        return Some(Arc::clone(connection));
    }
    if let Some(PeerInfo(connection)) = extensions.get() {
        return Some(Arc::clone(connection));
    }
    #[cfg(feature = "axum")]
    if let Some(ConnectInfo(PeerInfo(connection))) = extensions.get() {
        return Some(Arc::clone(connection));
    }
    None
}

fn prepare<B>(
    mesh: &Mesh,
    request: &mut Request<B>,
    permit: Permit,
    connection: &Connection,
    carrier: Carrier,
) -> Admitted {
    let deadline = permit.deadline().map(|deadline| mesh.instant_of(deadline));
    let timeout = match carrier {
        Carrier::Grpc => {
            grpc::timeout(request.headers()).and_then(|span| Instant::now().checked_add(span))
        }
        Carrier::Http => None,
    };
    let first_end = match (timeout, deadline) {
        (Some(timeout), Some(deadline)) if timeout < deadline => FirstEnd::Timeout,
        (Some(_), None) => FirstEnd::Timeout,
        _ => FirstEnd::Deadline,
    };
    let permitted = Permitted {
        caller: permit.peer().clone(),
        rule: permit.rule().into(),
    };
    let chain = permit.context().cloned();
    let exchange = Exchange::inbound(
        permit,
        &connection.cut,
        timeout.into_iter().chain(deadline).min(),
    );

    let extensions = request.extensions_mut();
    // Neither may come from anywhere but here.
    extensions.remove::<Context>();
    extensions.remove::<hyper::upgrade::OnUpgrade>();
    let current = match (chain, deadline) {
        (Some(chain), Some(deadline)) => {
            end_on_late_failure(&chain, &exchange);
            let caller = Some(permitted.caller.clone());
            let context = Context::new(chain, caller, exchange.over().clone(), deadline);
            extensions.insert(context.clone());
            Current::In(context)
        }
        _ => Current::NoOrigination,
    };
    extensions.insert(permitted);
    Admitted {
        exchange,
        current,
        first_end,
    }
}

/// The signature of the last link may be checked only when the handler calls on; if it fails then, the exchange ends.
fn end_on_late_failure(chain: &countersign_mesh::Context, exchange: &Arc<Exchange>) {
    let exchange = Arc::downgrade(exchange);
    chain.on_late_failure(move || {
        if let Some(exchange) = exchange.upgrade() {
            let detail = "the signature of the last link failed after the call had been permitted";
            tracing::warn!(detail, "Exchange ended");
            exchange.refuse(Refusal::new(Reason::ChainSignatureInvalid, detail));
        }
    });
}

/// Tells the log and the events that a call was refused.
fn report<B>(
    mesh: &Mesh,
    refusal: Refusal,
    peer: Option<&SpiffeId>,
    request: &Request<B>,
) -> Refusal {
    let method = loggable(request.method().as_str());
    let path = loggable(request.uri().path());
    tracing::info!(
        peer = peer.map(tracing::field::display),
        method,
        path,
        reason = %refusal.reason(),
        rule = refusal.rule(),
        limit = refusal.limit().map(tracing::field::display),
        detail = refusal.detail(),
        "Call refused"
    );
    mesh.event_log().write(Event::CallRefused {
        caller: peer.cloned(),
        action: format!("{method} {path}"),
        reason: refusal.reason(),
        detail: refusal.detail().to_owned(),
    });
    refusal
}

impl Admitted {
    async fn serve<S, B, R>(
        self,
        mut inner: S,
        request: Request<B>,
        carrier: Carrier,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<R>>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Self {
            exchange,
            current,
            first_end,
        } = self;
        let request =
            request.map(|body| Body::new(ExchangeBody::new(body, Arc::clone(&exchange), None)));
        let handling = current
            .clone()
            .scope(async move { inner.call(request).await });
        let ended = tokio::select! {
            biased;
            () = exchange.over().cancelled() => Ended::Cut,
            () = at(exchange.deadline()) => Ended::Late,
            answer = handling => match exchange.refusal() {
                // Found in the very poll that brought the answer.
                Some(_) => Ended::Cut,
                None => {
                    let body = |body| Body::new(ExchangeBody::new(body, exchange, Some(current)));
                    let mut answer = answer?.map(body);
                    // Only this layer refuses: a handler that passes on what others sent must not seem to.
                    answer.headers_mut().remove(REFUSAL_HEADER);
                    return Ok(answer);
                }
            },
        };
        Ok(match (ended, first_end) {
            (Ended::Late, FirstEnd::Timeout) => {
                tonic::Status::deadline_exceeded("the caller's own timeout has passed").into_http()
            }
            (Ended::Late, FirstEnd::Deadline) => {
                let refusal = Refusal::new(
                    Reason::ChainDeadlinePassed,
                    "the deadline passed while the call was handled",
                );
                answer::refused(&refusal, carrier)
            }
            (Ended::Cut, _) => {
                // Without a refusal the connection itself is gone, and nobody reads this.
                let gone = || Refusal::new(Reason::NoPeerIdentity, "the connection has ended");
                answer::refused(&exchange.refusal().cloned().unwrap_or_else(gone), carrier)
            }
        })
    }
}

enum Ended {
    Cut,
    Late,
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
