//! Serving with a middleware outside of the library's inbound layer, which sees every request as it came over the wire,
//! and its answer.
//!
//! An agent needs none of this: [`Mesh::serve`](countersign::Mesh::serve) is one line. It is here so that the process
//! that refuses says so itself, and so that a handler can take a chain off the wire for a call by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use countersign::PeerInfo;
use countersign_mesh::refusal::REFUSAL_HEADER;
use http::HeaderMap;
use tokio::net::TcpListener;
use tower::Layer as _;

use super::agent::{self, Agent};
use crate::protocol::{Arrival, Event};

/// A request as it came over the wire, for the handler behind the layer.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) headers: HeaderMap,
    pub(super) peer: PeerInfo,
}

/// Serves `router` until the process ends.
pub(super) async fn serve(
    agent: &Agent,
    listener: TcpListener,
    router: Router,
) -> anyhow::Result<()> {
    let requests = Arc::new(AtomicU64::new(0));
    let service = Router::new()
        .fallback_service(agent.mesh.inbound_layer().layer(router))
        .layer(from_fn_with_state(requests, watch))
        .into_make_service_with_connect_info::<PeerInfo>();
    let served = axum::serve(agent.mesh.listener(listener)?, service).await;
    served.context("the server ended")
}

async fn watch(
    State(requests): State<Arc<AtomicU64>>,
    ConnectInfo(peer): ConnectInfo<PeerInfo>,
    mut request: Request,
    next: Next,
) -> Response {
    let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
    let action = format!("{} {}", request.method(), request.uri().path());
    let caller = peer.id().map(ToString::to_string);
    let headers = request.headers().clone();
    request.extensions_mut().insert(Raw { headers, peer });
    let response = next.run(request).await;
    let refusal = response.headers().get(REFUSAL_HEADER);
    let refusal = refusal.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    agent::report(&Event::Arrived(Arrival {
        number,
        caller: caller.unwrap_or_default(),
        action,
        refusal,
    }));
    response
}
