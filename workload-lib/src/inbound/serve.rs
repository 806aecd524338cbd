//! Serving: TLS, the layer, and the application's router, in this order.

use std::io;
use std::sync::Arc;

use axum::Router;
use countersign_transport::serve::Http;
use countersign_transport::{ServeOptions, TlsAcceptor, serve_tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

use super::layer::InboundLayer;
use super::listener::MeshListener;
use crate::mesh::Mesh;

impl Mesh {
    /// Serves `router` to workloads that policy allows, over mutual TLS, until the future is dropped.
    ///
    /// The inbound layer stands outermost. A tonic service becomes a router by
    /// `Routes::new(mesh.grpc(service)).into_axum_router()`. When the SVID rotates, connections that were shown the
    /// old one are asked to go, and what runs on them finishes.
    pub async fn serve(&self, listener: TcpListener, router: Router) {
        self.serve_until(listener, router, std::future::pending())
            .await;
    }

    /// As [`Mesh::serve`], until `end` is ready; running exchanges then get 10 s to finish.
    pub async fn serve_until(
        &self,
        listener: TcpListener,
        router: Router,
        end: impl Future<Output = ()> + Send,
    ) {
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let router = Router::new().fallback_service(self.inbound_layer().layer(router));
        let options = ServeOptions::new(Http::Auto, Arc::clone(self.clock()));
        let identity = Arc::new(self.source().presenting.clone());
        let serving = serve_tls(listener, identity, router, options, stop.clone());
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            () = end => stop.cancel(),
        }
        serving.await;
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
