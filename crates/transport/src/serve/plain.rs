//! Serving plain HTTP over TCP, for operators' endpoints on an address of their own, such as health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{ConnectionServer, ServeOptions};
use crate::accept::{self, AcceptPermits};
use crate::connection::{Address, Connection};
use crate::drain::Drained;

/// Serves plain HTTP over TCP until `stop` is cancelled, then drains. Callers are not authenticated: serve only what is
/// public to everyone who can reach the address.
pub async fn serve_plain(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let (server, drain, _cut) = ConnectionServer::draining(router, &options, &stop);
    let take = |(stream, address): (TcpStream, SocketAddr), permits: AcceptPermits| {
        let (guard, server) = (drain.guard(), server.clone());
        let connection = Arc::new(Connection {
            address: Address::Tcp(address),
            peer: None,
            presented: None,
            cut: drain.cut().child_token(),
        });
        tokio::spawn(async move {
            let _held = (guard, permits);
            server.serve(stream, connection, None).await;
        });
    };
    accept::run(listener, options.accept_limits(), &stop, take).await;
    drain.finish(options.drain).await
}
