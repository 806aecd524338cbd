//! The chain alone, as a tower layer: for a hyper or tonic stack of your own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::body::Body;
use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_identity::tls::{ALPN_H2, ALPN_HTTP11};
use countersign_mesh::{Carrier, Grant};
use countersign_transport::dial::TlsConnector;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, Uri};
use hyper::rt;
use hyper_util::client::legacy::connect::Connection;
use tower::{Layer, Service};

use super::attempt::Attempt;
use super::client::Callee;
use super::status;
use crate::error::{BoxError, CallError, NoIdentity};
use crate::mesh::Mesh;
use crate::source::Generation;

/// A tower layer that continues the chain in each request to one callee, for a hyper or tonic stack of your own.
///
/// A callee accepts a link only over a connection that shows the certificate whose key signed it. So the layer belongs
/// to *one* SVID, and [`OutboundLayer::connector`] and [`OutboundLayer::tls_config`] make connections that show exactly
/// that one and accept exactly the callee. After a rotation ([`Mesh::updated`](crate::Mesh::updated)) make layer and
/// connections again; the old ones work until their SVID expires, or an authority is removed from a bundle.
///
/// It must be the innermost layer that touches a request: the link signs method and path as they are sent. Retries stand
/// outside of it, since every attempt is a call of its own. A gRPC request (by its content type) that is refused or fails
/// is answered with a status as [`GrpcClient`](crate::GrpcClient) does it; another one fails with [`CallError`].
///
/// [`CalleeClient`](crate::CalleeClient) does all this by itself.
///
/// # Examples
/// A tonic channel:
/// ```
/// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// # use countersign_proto::grpc::health::v1::health_client::HealthClient;
/// use tonic::transport::Endpoint;
/// use tower::ServiceBuilder;
///
/// let layer = mesh.client("spiffe://example.org/reviewer")?.layer()?;
/// let channel = Endpoint::from_static("http://reviewer")
///     .connect_with_connector(layer.connector("10.0.0.8:8443")?)
///     .await?;
/// let client = HealthClient::new(ServiceBuilder::new().layer(layer).service(channel));
/// # Ok(())
/// # }
/// ```
/// hyper-util's client:
/// ```
/// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use countersign::Body;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::{Layer as _, ServiceExt as _};
///
/// let layer = mesh.client("spiffe://example.org/reviewer")?.layer()?;
/// let pool: Client<_, Body> =
///     Client::builder(TokioExecutor::new()).build(layer.connector("10.0.0.8:8443")?);
/// let request = http::Request::post("https://reviewer/reviews").body(Body::from("fn main() {}"))?;
/// let response = layer.layer(pool).oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OutboundLayer {
    chain: Arc<Signer>,
    grant: Grant,
}

/// Whose calls to whom, under which SVID.
struct Signer {
    mesh: Mesh,
    callee: SpiffeId,
    generation: Arc<Generation>,
}

impl Callee {
    /// The chain alone, under the SVID in use now: see [`OutboundLayer`].
    ///
    /// # Errors
    /// [`NoIdentity`].
    pub fn layer(&self) -> Result<OutboundLayer, NoIdentity> {
        let signer = Signer {
            mesh: self.mesh.clone(),
            callee: self.id.clone(),
            generation: self.mesh.generation()?,
        };
        Ok(OutboundLayer {
            chain: Arc::new(signer),
            grant: Grant::ByRule,
        })
    }
}

impl OutboundLayer {
    /// A layer whose calls grant the callee this many calls of its own: see
    /// [`CalleeClient::grant`](crate::CalleeClient::grant).
    #[must_use]
    pub fn grant(&self, calls: u16) -> Self {
        Self {
            chain: Arc::clone(&self.chain),
            grant: Grant::Exactly(calls),
        }
    }

    /// Opens connections to `host:port` for this layer, by TLS 1.3 with HTTP/2 and HTTP/1.1 in ALPN: a connector for
    /// hyper-util's client and for tonic's `Endpoint::connect_with_connector`. The URI that it is called with plays no
    /// part. Connections end with the first certificate on them.
    ///
    /// # Errors
    /// [`CallError::Signing`] if no TLS configuration can be made of the SVID.
    pub fn connector(
        &self,
        address: &str,
    ) -> Result<
        impl Service<
            Uri,
            Response = impl rt::Read + rt::Write + Connection + Send + Unpin + use<>,
            Error = impl std::error::Error + Send + Sync + use<>,
            Future = impl Send + Unpin + use<>,
        > + Clone
        + Send
        + Sync
        + use<>,
        CallError,
    > {
        let config = self.tls_config(&[ALPN_H2, ALPN_HTTP11])?;
        let clock = Arc::clone(self.chain.mesh.clock());
        Ok(TlsConnector::new(Arc::new(config), address, clock))
    }

    /// The TLS configuration for connections of this layer, with these protocols in ALPN: it shows the layer's SVID and
    /// accepts exactly the callee, whatever the server's name.
    ///
    /// # Errors
    /// [`CallError::Signing`] if no TLS configuration can be made of the SVID.
    pub fn tls_config(&self, alpn: &[&[u8]]) -> Result<rustls::ClientConfig, CallError> {
        let Signer {
            callee, generation, ..
        } = &*self.chain;
        generation
            .client(callee.clone(), alpn)
            .map_err(|error| CallError::Signing(error.into()))
    }
}

impl Signer {
    /// The generation, if calls may still be signed with it and go out on its connections.
    fn usable(&self) -> Result<&Generation, NoIdentity> {
        // Withdrawn or expired altogether.
        self.mesh.generation()?;
        let not_after = self.generation.svid().not_after();
        if self.mesh.clock().now() > not_after {
            let why = format!("the SVID of this layer expired at {not_after}: make another layer");
            return Err(NoIdentity::new(why));
        }
        if self.generation.is_outdated() {
            // Its connections may have been verified under the authority that is gone (docs/call-chains.md, section 4).
            let why = "an authority was removed since this layer was made: make another layer";
            return Err(NoIdentity::new(why));
        }
        Ok(&self.generation)
    }
}

impl fmt::Debug for OutboundLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundLayer")
            .field("callee", &self.chain.callee)
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for OutboundLayer {
    type Service = Outbound<S>;

    fn layer(&self, inner: S) -> Outbound<S> {
        Outbound {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service behind an [`OutboundLayer`].
#[derive(Clone, Debug)]
pub struct Outbound<S> {
    layer: OutboundLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Outbound<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, CallError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        let callee = &self.layer.chain.callee;
        self.inner
            .poll_ready(cx)
            .map_err(|error| failed(callee, error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let OutboundLayer { chain, grant } = self.layer.clone();
        let content_type = request.headers().get(CONTENT_TYPE);
        let carrier = Carrier::of_content_type(content_type.map(HeaderValue::as_bytes));
        let (mut head, body) = request.into_parts();
        // In the call itself and not in its future: here the task-local of the caller's handler is in place.
        let to = (&chain.callee, grant);
        let begun = chain
            .usable()
            .map_err(CallError::from)
            .and_then(|svid| Attempt::begin(&chain.mesh, svid, to, carrier, &mut head));
        let attempt = match begun {
            Ok(attempt) => attempt,
            Err(error) => return Box::pin(async move { answered(Err(error), carrier) }),
        };
        let sending = self.inner.call(Request::from_parts(head, body));
        Box::pin(async move {
            let sending = async {
                let sent = sending.await;
                sent.map_err(|error| failed(&chain.callee, error.into()))
            };
            answered(attempt.answer(sending).await, carrier)
        })
    }
}

fn failed(callee: &SpiffeId, source: BoxError) -> CallError {
    CallError::Failed {
        callee: callee.clone(),
        source,
    }
}

fn answered(
    result: Result<Response<Body>, CallError>,
    carrier: Carrier,
) -> Result<Response<Body>, CallError> {
    match (result, carrier) {
        (Err(error), Carrier::Grpc) => Ok(status::of(&error).into_http()),
        (result, _) => result,
    }
}
