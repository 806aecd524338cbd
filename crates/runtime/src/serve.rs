//! Serving HTTP over TLS on TCP, and over Unix sockets.
//!
//! A loop of our own over hyper, because connections here have to be cut, aged, and asked to go when the identity
//! that they were shown is not the present one. Handshakes run in tasks of their own, a slow caller holds up nobody, and
//! the end is bounded. What is served is an axum router; a tonic service becomes one by `Routes::into_axum_router`.
//!
//! Each request carries `Arc<Connection>` in its extensions.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::connection::Connection;
use crate::drain::{Drain, Drained};
use crate::limits;
use crate::tls::{ServerIdentity, TlsAcceptor};
use crate::unix::{self, Socket};

mod accept;
mod exchange;

/// Which HTTP versions a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/2 alone: gRPC.
    Http2Only,
    /// HTTP/1.1 and HTTP/2, by ALPN and by the caller's first bytes.
    Auto,
}

/// How a listener serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The HTTP versions spoken.
    pub http: Http,
    /// Connections are asked to go at this age, spread by a tenth; what runs on them finishes.
    pub max_age: Option<Duration>,
    /// At the end, running exchanges get this long before they are cut.
    pub drain: Duration,
    /// A handshake that takes longer is given up.
    pub handshake: Duration,
    /// Handshakes at once; further callers wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections at once; further callers wait in the kernel's queue.
    pub connections: usize,
    /// Tells when a leaf ends.
    pub clock: SharedClock,
}

impl ServeOptions {
    /// For this HTTP version: no maximum age, 10 s for the drain, and the bounds of [`limits`].
    #[must_use]
    pub const fn new(http: Http, clock: SharedClock) -> Self {
        Self {
            http,
            max_age: None,
            drain: Duration::from_secs(10),
            handshake: limits::HANDSHAKE,
            handshakes: limits::HANDSHAKES,
            connections: limits::CONNECTIONS,
            clock,
        }
    }

    /// With a maximum age of connections.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// With another bound on the drain.
    #[must_use]
    pub const fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }
}

/// Serves TLS over TCP until `stop` is cancelled, then drains.
///
/// Connections that presented an older identity than `identity` says are asked to go; all are cut when the first leaf on
/// them ends.
pub async fn serve_tls(
    listener: TcpListener,
    identity: Arc<dyn ServerIdentity>,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let drain = Drain::new(&stop);
    let acceptor = TlsAcceptor::new(Arc::clone(&identity), Arc::clone(&options.clock))
        .handshake_limit(options.handshake)
        .cut_by(drain.cut().clone());
    let _ = (listener, acceptor, router, identity);
    drain.finish(options.drain).await
}

/// Serves plain HTTP on a Unix socket until `stop` is cancelled, then drains. The socket's file goes with it.
///
/// A caller whom the kernel does not name is not served.
pub async fn serve_unix(
    socket: Socket,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let drain = Drain::new(&stop);
    let _ = (socket, router);
    drain.finish(options.drain).await
}
