//! Serving HTTP over TLS on TCP, and over Unix sockets.
//!
//! An accept loop of our own over hyper, because connections here must be cut when a certificate expires, closed at a
//! maximum age, and closed gracefully when the identity presented on them was rotated. A slow caller does not hold up
//! others, and shutdown has a deadline. It serves an axum router; `Routes::into_axum_router` makes one of tonic
//! services.
//!
//! Each request carries `Arc<Connection>` in its extensions.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

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
    /// Connections are closed gracefully at this age, with a jitter of 10 %: no new requests, and running ones finish.
    pub max_age: Option<Duration>,
    /// At shutdown, running exchanges get this long before they are aborted.
    pub drain: Duration,
    /// Timeout of a TLS handshake.
    pub handshake: Duration,
    /// Handshakes at once; further callers wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections at once; further callers wait in the kernel's queue.
    pub connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub streams: u32,
    /// All headers of one request together, in bytes.
    pub header_bytes: u32,
    /// Decides when a leaf has expired.
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
/// Connections on which an older identity than the current value of `identity` was presented are closed gracefully;
/// every connection is cut when one of its two leaves expires. No SPIFFE ID gets more than half of all connections, and
/// neither do the callers without one together.
pub async fn serve_tls(
    listener: TcpListener,
    identity: Arc<dyn ServerIdentity>,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let (server, drain, _cut) = ConnectionServer::draining(router, &options, &stop);
    let acceptor = TlsAcceptor::new(Arc::clone(&identity), Arc::clone(&options.clock))
        .handshake_limit(options.handshake)
        .cut_by(drain.cut().clone());
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
/// A caller is not served if the kernel does not report its credentials, if its user already has half of all
/// connections, or if its process already has [`limits::CONNECTIONS_PER_PROCESS`].
pub async fn serve_unix(
    socket: Socket,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let (server, drain, _cut) = ConnectionServer::draining(router, &options, &stop);
    let accept_limits = options.accept_limits();
    let users = ConnectionQuota::half_of(accept_limits.connections);
    let processes = ConnectionQuota::at_most(limits::CONNECTIONS_PER_PROCESS);
    let lines = LogLimiter::new(limits::LINES);
    let take = |stream: UnixStream,
                AcceptPermits {
                    handshake: _,
                    connection: permit,
                }: AcceptPermits| {
        // Before anything else: once the process has exited, the kernel reports no pidfd.
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
        // A process in another PID namespace has no PID here: only its user's quota applies.
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

/// A process as a client of a quota: the type tells it from a user in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process(i32);

/// State shared by all connections of one listener.
#[derive(Clone)]
struct ConnectionServer {
    router: Router,
    http: auto::Builder<TokioExecutor>,
    max_age: Option<Duration>,
    drain: CancellationToken,
    clock: SharedClock,
}

impl ConnectionServer {
    /// With its drain, and a guard: if the serving future is dropped instead of stopped, its connections end with it.
    fn draining(
        router: Router,
        options: &ServeOptions,
        stop: &CancellationToken,
    ) -> (Self, Drain, DropGuard) {
        let drain = Drain::new(stop);
        let server = Self {
            router,
            http: exchange::builder(options),
            max_age: options.max_age,
            drain: drain.begun().clone(),
            clock: Arc::clone(&options.clock),
        };
        let cut = drain.cut().clone().drop_guard();
        (server, drain, cut)
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
