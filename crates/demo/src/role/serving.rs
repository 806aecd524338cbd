//! Serving with a watcher in front: a router behind the library's inbound layer, and outside of it a middleware that
//! sees every request as it came over the wire, and what it was answered.
//!
//! A workload needs none of this: [`Mesh::serve`](countersign::Mesh::serve) is one line. It is here so that the process
//! that refuses says so itself, and so that a handler can get at the raw fields for a call by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use countersign::PeerInfo;
use countersign_mesh::refusal::REFUSAL_HEADER;
use http::HeaderMap;
use tokio::net::TcpListener;
use tower::Layer as _;

use super::part::Part;
use crate::event::{Arrival, Event};

/// A request as it came over the wire, for the handler behind the layer.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) headers: HeaderMap,
    pub(super) peer: PeerInfo,
}

#[derive(Clone, Debug)]
struct Watcher {
    part: Arc<Part>,
    seen: Arc<AtomicU64>,
}

/// Serves `router` until the process ends.
pub(super) async fn watched(
    part: &Arc<Part>,
    listener: TcpListener,
    router: Router,
) -> anyhow::Result<()> {
    let watcher = Watcher {
        part: Arc::clone(part),
        seen: Arc::default(),
    };
    let service = Router::new()
        .fallback_service(part.mesh().inbound_layer().layer(router))
        .layer(axum::middleware::from_fn_with_state(watcher, watch))
        .into_make_service_with_connect_info::<PeerInfo>();
    axum::serve(part.mesh().listener(listener)?, service)
        .await
        .context("the server ended")
}

async fn watch(
    State(watcher): State<Watcher>,
    ConnectInfo(peer): ConnectInfo<PeerInfo>,
    mut request: Request,
    next: Next,
) -> Response {
    let number = watcher.seen.fetch_add(1, Ordering::Relaxed) + 1;
    let action = format!("{} {}", request.method(), request.uri().path());
    let caller = peer.id().map(ToString::to_string).unwrap_or_default();
    if peer.id().is_some() {
        let raw = Raw {
            headers: request.headers().clone(),
            peer,
        };
        request.extensions_mut().insert(raw);
    }
    let response = next.run(request).await;
    let refusal = response.headers().get(REFUSAL_HEADER);
    let refusal = refusal.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    watcher.part.tell(&Event::Arrived(Arrival {
        number,
        caller,
        action,
        refusal,
    }));
    response
}
