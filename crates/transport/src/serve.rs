//! Serving HTTP over TLS on TCP, and over Unix sockets.
//!
//! A loop of our own over hyper, because connections here have to be cut, aged, and closed gracefully when the
//! identity that they were shown is not the present one. A slow caller holds up no other, and the shutdown is bounded. What is served is an axum router; a tonic service becomes one by `Routes::into_axum_router`.
//!
//! Each request carries `Arc<Connection>` in its extensions.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::accept::{self, AcceptLimits, AcceptPermits};
use crate::clock::SharedClock;
use crate::connection::Connection;
use crate::drain::{Drain, Drained};
use crate::limits;
use crate::log_limiter::LogLimiter;
use crate::open_files;
use crate::presented::{Identities, ServerIdentity};
use crate::tls::{TlsAcceptor, TlsIo};
use crate::unix::{self, Socket};

mod authority;
mod connection_quota;
mod exchange;
mod plain;

use authority::AnyAuthority;
use connection_quota::ConnectionQuota;
use exchange::CloseReasons;
pub use plain::serve_plain;

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
    /// Connections are closed gracefully at this age, spread by a tenth: no new requests, and running ones finish.
    pub max_age: Option<Duration>,
    /// At the end, running exchanges get this long before they are cut.
    pub drain: Duration,
    /// A handshake that takes longer is given up.
    pub handshake: Duration,
    /// Handshakes at once; further callers wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections at once; further callers wait in the kernel's queue.
    pub connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub streams: u32,
    /// All headers of one request together, in bytes.
    pub header_bytes: u32,
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
            streams: limits::STREAMS,
            header_bytes: limits::HEADER_BYTES,
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

    /// With other bounds on the streams of one connection, and on the headers of a request in bytes.
    #[must_use]
    pub const fn requests(mut self, streams: u32, header_bytes: u32) -> Self {
        self.streams = streams;
        self.header_bytes = header_bytes;
        self
    }

    fn accept_limits(&self) -> AcceptLimits {
        AcceptLimits {
            handshakes: self.handshakes,
            connections: self.connections.min(open_files::connections()),
        }
    }
}

/// Serves TLS over TCP until `stop` is cancelled, then drains.
///
/// Connections that presented an older identity than `identity` says are closed gracefully; all are cut when the first leaf on
/// them ends. A SPIFFE ID that has half of all connections already gets no more, and neither do callers without one.
pub async fn serve_tls(
    listener: TcpListener,
    identity: Arc<dyn ServerIdentity>,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let drain = Drain::new(&stop);
    // If this future is dropped instead of stopped, its connections end with it.
    let _cut = drain.cut().clone().drop_guard();
    let acceptor = TlsAcceptor::new(Arc::clone(&identity), Arc::clone(&options.clock))
        .handshake_limit(options.handshake)
        .cut_by(drain.cut().clone());
    let server = ConnectionServer::new(router, &options, &drain);
    let limits = options.accept_limits();
    let quota = ConnectionQuota::half_of(limits.connections);
    let serve = move |io: TlsIo<TcpStream>, connection: Arc<Connection>, permit| {
        let (server, quota) = (server.clone(), quota.clone());
        let identity = identity.subscribe();
        async move {
            let _permit = permit;
            let caller = connection.peer.as_ref().map(|peer| peer.id.clone());
            if let Some(_lease) = quota.lease(caller) {
                server.serve(io, connection, Some(identity)).await;
            }
        }
    };
    accept::accept_tls(listener, acceptor, limits, &drain, &stop, serve).await;
    drain.finish(options.drain).await
}

/// Serves plain HTTP on a Unix socket until `stop` is cancelled, then drains. The socket's file goes with it.
///
/// A caller whom the kernel does not name is not served, and neither is a user who has half of all connections already, or
/// a process that has [`limits::CONNECTIONS_PER_PROCESS`].
pub async fn serve_unix(
    socket: Socket,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let drain = Drain::new(&stop);
    let _cut = drain.cut().clone().drop_guard();
    let server = ConnectionServer::new(router, &options, &drain);
    let accept_limits = options.accept_limits();
    let users = ConnectionQuota::half_of(accept_limits.connections);
    let processes = ConnectionQuota::at_most(limits::CONNECTIONS_PER_PROCESS);
    let lines = LogLimiter::new(limits::LINES);
    let take = |stream: UnixStream,
                AcceptPermits {
                    handshake: _,
                    connection: permit,
                }: AcceptPermits| {
        // Before anything else: a process that has ended by then is not named.
        let caller = match unix::caller(&stream) {
            Ok(caller) => caller,
            Err(error) => {
                if lines.line().is_some() {
                    tracing::warn!(%error, "The kernel does not say who called: not served");
                }
                return;
            }
        };
        let Some(user) = users.lease(caller.uid) else {
            return;
        };
        // A process of another PID namespace has no number here: the quota of its user alone bounds it.
        let process = match caller.pid {
            Some(pid) => match processes.lease(Process(pid)) {
                Some(lease) => Some(lease),
                None => return,
            },
            None => None,
        };
        let guard = drain.guard();
        let server = server.clone();
        let connection = Arc::new(Connection::unix(caller, drain.cut().child_token()));
        tokio::spawn(async move {
            let _held = (guard, permit, user, process);
            server
                .serve(AnyAuthority::new(stream), connection, None)
                .await;
        });
    };
    tokio::select! {
        () = accept::run(&socket, accept_limits, &stop, take) => {}
        () = socket.watch_file() => {}
    }
    // New callers must not find the socket while running exchanges finish.
    drop(socket);
    drain.finish(options.drain).await
}

/// A process by its number, so that the log says which kind of client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process(i32);

/// What all connections of one listener have in common.
#[derive(Clone)]
struct ConnectionServer {
    router: Router,
    http: auto::Builder<TokioExecutor>,
    max_age: Option<Duration>,
    drain: CancellationToken,
    clock: SharedClock,
}

impl ConnectionServer {
    fn new(router: Router, options: &ServeOptions, drain: &Drain) -> Self {
        Self {
            router,
            http: exchange::builder(options),
            max_age: options.max_age,
            drain: drain.begun().clone(),
            clock: Arc::clone(&options.clock),
        }
    }

    async fn serve<S>(self, io: S, connection: Arc<Connection>, identity: Option<Identities>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Self {
            router,
            http,
            max_age,
            drain,
            clock,
        } = self;
        let reasons = CloseReasons {
            drain,
            max_age,
            identity,
        };
        exchange::serve(io, connection, router, &http, reasons, clock).await;
    }
}
