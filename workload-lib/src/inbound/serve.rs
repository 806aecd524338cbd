//! Serving: TLS, the layer, and the application's service, in this order.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use countersign_transport::drain::Drained;
use countersign_transport::serve::Http;
use countersign_transport::{ServeOptions, TlsAcceptor, serve_tls};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, Service};

use super::layer::InboundLayer;
use super::listener::MeshListener;
use crate::error::{BoxError, ServeError};
use crate::limits;
use crate::mesh::Mesh;

impl Mesh {
    /// Serves `service` to workloads that policy allows, over mutual TLS, until the future is dropped.
    ///
    /// Takes any tower service that cannot fail: an axum `Router`, a tonic service wrapped by `Mesh::grpc`, several of
    /// them as tonic's `Routes`. The inbound layer stands outermost. When the SVID rotates, connections that were shown
    /// the old one are asked to go, and what runs on them finishes.
    ///
    /// # Errors
    /// [`ServeError::Listener`] if the listener is no use.
    ///
    /// # Examples
    /// ```
    /// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::{Router, routing::post};
    /// use tokio::net::TcpListener;
    ///
    /// let router = Router::new().route("/tasks", post(async |task: String| task));
    /// mesh.serve(TcpListener::bind("0.0.0.0:8443").await?, router).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve<S, R>(&self, listener: TcpListener, service: S) -> Result<(), ServeError>
    where
        S: Service<Request<Body>, Response = Response<R>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        self.serve_with_shutdown(listener, service, std::future::pending())
            .await
    }

    /// As [`Mesh::serve`], until `signal` is ready; running exchanges then get 10 s to finish.
    ///
    /// # Errors
    /// [`ServeError::Cut`] if exchanges still ran after that and were cut, and as [`Mesh::serve`].
    ///
    /// # Examples
    /// ```
    /// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// # let router = axum::Router::new();
    /// let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
    /// let signal = async { drop(tokio::signal::ctrl_c().await) };
    /// mesh.serve_with_shutdown(listener, router, signal).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_with_shutdown<S, R>(
        &self,
        listener: TcpListener,
        service: S,
        signal: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError>
    where
        S: Service<Request<Body>, Response = Response<R>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        listener.local_addr().map_err(ServeError::Listener)?;
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let router = Router::new().fallback_service(self.inbound_layer().layer(service));
        let options =
            ServeOptions::new(Http::Auto, Arc::clone(self.clock())).drain(limits::SHUTDOWN);
        let identity = Arc::new(self.source().presenting.clone());
        let serving = serve_tls(listener, identity, router, options, stop.clone());
        tokio::pin!(serving);
        let drained = tokio::select! {
            drained = &mut serving => drained,
            () = signal => {
                stop.cancel();
                serving.await
            }
        };
        match drained {
            Drained::Clean => Ok(()),
            Drained::Cut(connections) => Err(ServeError::Cut {
                connections,
                limit: limits::SHUTDOWN,
            }),
        }
    }

    /// Connections for a server of your own; see [`MeshListener`].
    ///
    /// # Errors
    /// The listener has no local address.
    pub fn listener(&self, tcp: TcpListener) -> io::Result<MeshListener> {
        let identity = Arc::new(self.source().presenting.clone());
        MeshListener::new(tcp, TlsAcceptor::new(identity, Arc::clone(self.clock())))
    }

    /// The layer that decides about each request, for a server of your own over [`Mesh::listener`]. It must be the
    /// outermost layer.
    #[must_use]
    pub fn inbound_layer(&self) -> InboundLayer {
        InboundLayer::new(self.clone())
    }
}
