//! Serving HTTP over TLS on TCP, and over Unix sockets.
//!
//! A loop of our own over hyper, because connections here have to be cut, aged, and asked to go when the identity
//! that they were shown is not the present one. Handshakes run in tasks of their own, a slow caller holds up nobody, and
//! the end is bounded. What is served is an axum router; a tonic service becomes one by `Routes::into_axum_router`.
//!
//! Each request carries `Arc<Connection>` in its extensions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::allowance::Allowance;
use crate::clock::SharedClock;
use crate::connection::{Connection, network};
use crate::drain::{Drain, Drained};
use crate::error::Chain;
use crate::limits;
use crate::open_files;
use crate::tls::{AcceptError, Identities, ServerIdentity, TlsAcceptor};
use crate::turns::Turns;
use crate::unix::{self, Socket};

mod accept;
mod authority;
mod exchange;
mod plain;
mod users;

use accept::{Bounds, Places};
use authority::AnyAuthority;
use exchange::Leave;
pub use plain::serve_plain;
use users::Users;

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

    fn bounds(&self) -> Bounds {
        Bounds {
            handshakes: self.handshakes,
            connections: self.connections.min(open_files::connections()),
        }
    }
}

/// Serves TLS over TCP until `stop` is cancelled, then drains.
///
/// Connections that presented an older identity than `identity` says are asked to go; all are cut when the first leaf on
/// them ends. A SPIFFE ID that has half of all connections already gets no more, and neither do callers without one.
pub async fn serve_tls(
    listener: TcpListener,
    identity: Arc<dyn ServerIdentity>,
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
) -> Drained {
    let drain = Drain::new(&stop);
    // Should this future be dropped instead of stopped, nothing goes on without it.
    let _cut = drain.cut().clone().drop_guard();
    let acceptor = TlsAcceptor::new(Arc::clone(&identity), Arc::clone(&options.clock))
        .handshake_limit(options.handshake)
        .cut_by(drain.cut().clone());
    let line = Line::new(router, &options, &drain);
    let bounds = options.bounds();
    let users = Users::half_of(bounds.connections);
    let turns = Turns::new(options.handshakes / 4);
    let limit = options.handshake;
    let take = |(stream, address): (TcpStream, SocketAddr), places: Places| {
        let guard = drain.guard();
        let turns = turns.clone();
        let acceptor = acceptor.clone();
        let line = line.clone();
        let identity = identity.subscribe();
        let users = users.clone();
        tokio::spawn(async move {
            let _guard = guard;
            let Places {
                handshake,
                connection: _place,
            } = places;
            // A quarter of the handshakes at once are for one network, so that silent callers there don't keep all others
            // out; beyond that they wait for each other.
            let (turn, handshake) = match turns.take(network(address.ip())) {
                Some(turn) => (turn, Some(handshake)),
                None => {
                    drop(handshake);
                    let turn = tokio::time::timeout(limit, turns.wait(network(address.ip())));
                    match line.drain.run_until_cancelled(turn).await {
                        Some(Ok(turn)) => (turn, None),
                        _ => return,
                    }
                }
            };
            // Small messages are answered at once; a socket that refuses this works all the same.
            drop(stream.set_nodelay(true));
            let accepted = line
                .drain
                .run_until_cancelled(acceptor.accept(stream, address))
                .await;
            drop((turn, handshake));
            match accepted {
                None => {}
                Some(Err(error)) => log_refused(address, &error),
                Some(Ok((io, connection))) => {
                    let caller = connection.peer.as_ref().map(|peer| peer.id.clone());
                    if let Some(_seat) = users.enter(caller) {
                        line.serve(io, connection, Some(identity)).await;
                    }
                }
            }
        });
    };
    accept::run(listener, bounds, &stop, take).await;
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
    let line = Line::new(router, &options, &drain);
    let bounds = options.bounds();
    let users = Users::half_of(bounds.connections);
    let processes = Users::at_most(limits::CONNECTIONS_PER_PROCESS);
    let lines = Allowance::new(limits::LINES);
    let take = |stream: UnixStream,
                Places {
                    handshake: _,
                    connection: place,
                }: Places| {
        // Asked for at once: the process is less likely to be gone.
        let caller = match unix::caller(&stream) {
            Ok(caller) => caller,
            Err(error) => {
                if lines.line().is_some() {
                    tracing::warn!(%error, "The kernel does not say who called: not served");
                }
                return;
            }
        };
        let Some(seat) = users.enter(caller.uid) else {
            return;
        };
        // Those whom the kernel can't number here are told apart by their user alone.
        let process = match caller.pid {
            Some(pid) => match processes.enter(Process(pid)) {
                Some(seat) => Some(seat),
                None => return,
            },
            None => None,
        };
        let guard = drain.guard();
        let line = line.clone();
        let connection = Arc::new(Connection::unix(caller, drain.cut().child_token()));
        tokio::spawn(async move {
            let _held = (guard, place, seat, process);
            line.serve(AnyAuthority::new(stream), connection, None)
                .await;
        });
    };
    tokio::select! {
        () = accept::run(&socket, bounds, &stop, take) => {}
        () = socket.tend() => {}
    }
    // Nobody is to find it while what runs comes to its end.
    drop(socket);
    drain.finish(options.drain).await
}

/// A process by its number, in the log too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process(i32);

/// What all connections of one listener share.
#[derive(Clone)]
struct Line {
    router: Router,
    http: auto::Builder<TokioExecutor>,
    max_age: Option<Duration>,
    drain: CancellationToken,
    clock: SharedClock,
}

impl Line {
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
        let leave = Leave {
            drain,
            max_age,
            identity,
        };
        exchange::serve(io, connection, router, &http, leave, clock).await;
    }
}

/// A caller that cannot be let in is its own fault, unless it is ours.
fn log_refused(address: SocketAddr, error: &AcceptError) {
    let cause = Chain(error);
    match error {
        AcceptError::NoIdentity => tracing::warn!(%address, %cause, "Caller turned away"),
        _ => tracing::debug!(%address, %cause, "Caller turned away"),
    }
}
