//! The client side: TLS over TCP with one fixed configuration, and Unix sockets.
//!
//! The connectors are tower services of a URI, which they ignore, since each connects to one fixed target. They fit
//! tonic's `Endpoint::connect_with_connector` and hyper-util's client. [`DialError::of`] finds the cause of a failure
//! inside the errors that tonic and hyper wrap around it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_identity::verify::Leaf;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::connection;
use crate::error::Chain;
use crate::io::CutIo;
use crate::limits;

mod error;

pub use error::{Cause, DialError};

/// A boxed connect.
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, DialError>> + Send>>;

/// Opens TLS connections to one target with one configuration. The server's DNS name is not verified: the
/// configuration's verifier authorizes the server by its SPIFFE ID.
#[derive(Clone)]
pub struct TlsConnector {
    config: Arc<rustls::ClientConfig>,
    target: Arc<str>,
    clock: SharedClock,
    limit: Duration,
    cut: CancellationToken,
    turn: usize,
}

impl TlsConnector {
    /// To `target`, as `host:port`, `address:port` or `[v6 address]:port`.
    #[must_use]
    pub fn new(config: Arc<rustls::ClientConfig>, target: &str, clock: SharedClock) -> Self {
        Self {
            config,
            target: target.into(),
            clock,
            limit: limits::DIAL,
            cut: CancellationToken::new(),
            turn: 0,
        }
    }

    /// With another of the name's addresses tried first, to spread connections: callers count this up. All are tried.
    #[must_use]
    pub const fn turn(mut self, turn: usize) -> Self {
        self.turn = turn;
        self
    }

    /// With another limit on resolving, connecting and the handshake together.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// With a token that cuts every connection opened here.
    #[must_use]
    pub fn cut_by(mut self, cut: CancellationToken) -> Self {
        self.cut = cut;
        self
    }

    /// Opens a connection to the first of the name's addresses that works.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self) -> Result<ClientIo, DialError> {
        let target = || self.target.to_string();
        tokio::time::timeout(self.limit, self.dial_unbounded())
            .await
            .map_err(|_| DialError::TimedOut {
                target: target(),
                limit: self.limit,
            })?
    }

    async fn dial_unbounded(&self) -> Result<ClientIo, DialError> {
        let mut addresses: Vec<_> = tokio::net::lookup_host(&*self.target)
            .await
            .map_err(|source| DialError::Resolve {
                target: self.target.to_string(),
                source,
            })?
            .collect();
        let first = self.turn.checked_rem(addresses.len()).unwrap_or_default();
        addresses.rotate_left(first);
        self.dial_first_of(&addresses).await
    }

    /// Opens a connection to the first of these addresses that works: servers with the same name are interchangeable.
    /// Each gets an equal share of the time limit.
    ///
    /// # Errors
    /// The [`DialError`] of one address. An unreachable server is reported in preference to one that failed
    /// verification.
    pub async fn dial_first_of(&self, addresses: &[SocketAddr]) -> Result<ClientIo, DialError> {
        let target = || self.target.to_string();
        let share = u32::try_from(addresses.len().max(1)).map_or(self.limit, |n| self.limit / n);
        let mut told = None;
        for address in addresses {
            let error = match tokio::time::timeout(share, self.dial_one(*address)).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(error)) => error,
                Err(_) => DialError::TimedOut {
                    target: target(),
                    limit: share,
                },
            };
            if addresses.len() > 1 {
                tracing::debug!(%address, error = %Chain(&error), "One of several servers could not be connected to");
            }
            if matches!(told, None | Some(DialError::Tls { .. })) {
                told = Some(error);
            }
        }
        Err(told.unwrap_or_else(|| DialError::Resolve {
            target: target(),
            source: io::Error::new(io::ErrorKind::NotFound, "the name has no addresses"),
        }))
    }

    async fn dial_one(&self, address: SocketAddr) -> Result<ClientIo, DialError> {
        let target = || self.target.to_string();
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|source| DialError::Connect {
                target: target(),
                source,
            })?;
        // No Nagle delay for small messages. A socket that refuses the option still works.
        drop(tcp.set_nodelay(true));
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&self.config))
            .connect(self.server_name(), tcp)
            .await
            .map_err(|source| DialError::handshake(target(), source))?;
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let der = chain
            .first()
            .ok_or_else(|| DialError::NoCertificate { target: target() })?;
        let leaf = Leaf::parse(der).map_err(|source| DialError::NotAnSvid {
            target: target(),
            source,
        })?;
        let end = connection::ended(
            self.cut.child_token(),
            Some(leaf.not_after),
            Arc::clone(&self.clock),
        );
        Ok(ClientIo {
            io: CutIo::new(tls, end),
            leaf: Arc::new(leaf),
        })
    }

    /// The server name for SNI: the host, or a placeholder if SNI does not allow that.
    fn server_name(&self) -> ServerName<'static> {
        let host = self
            .target
            .rsplit_once(':')
            .map_or(&*self.target, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(
            std::net::IpAddr::from([0, 0, 0, 0]).into(),
        ))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector")
            .field("target", &self.target)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl tower::Service<Uri> for TlsConnector {
    type Response = TokioIo<ClientIo>;
    type Error = DialError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.dial().await.map(TokioIo::new) })
    }
}

/// A TLS connection to a verified server. It is cut when the server's leaf expires.
///
/// hyper-util's client puts `Arc<Leaf>` into the extensions of each response.
#[derive(Debug)]
pub struct ClientIo {
    io: CutIo<TlsStream<TcpStream>>,
    leaf: Arc<Leaf>,
}

impl ClientIo {
    /// The server's leaf, as the handshake verified it.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Leaf> {
        &self.leaf
    }
}

impl Connection for ClientIo {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(Arc::clone(&self.leaf));
        match self.io.get_ref().get_ref().1.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io)
            .poll_read(cx, buf)
            .map_err(error::explained)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io)
            .poll_write(cx, buf)
            .map_err(error::explained)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io)
            .poll_write_vectored(cx, bufs)
            .map_err(error::explained)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io)
            .poll_flush(cx)
            .map_err(error::explained)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io)
            .poll_shutdown(cx)
            .map_err(error::explained)
    }
}

/// Opens connections to one Unix socket.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: Arc<Path>,
}

impl UnixConnector {
    /// To the socket at `path`; a leading `unix:` or `unix://` is removed.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path: PathBuf = path.into();
        let bare = path.to_str().and_then(|text| {
            text.strip_prefix("unix://")
                .or_else(|| text.strip_prefix("unix:"))
        });
        Self {
            path: bare.map_or_else(
                || Arc::from(path.as_path()),
                |bare| Arc::from(Path::new(bare)),
            ),
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`DialError::Connect`].
    pub async fn dial(&self) -> Result<UnixStream, DialError> {
        let target = || format!("unix:{}", self.path.display());
        let connected = tokio::time::timeout(limits::DIAL, UnixStream::connect(&*self.path)).await;
        connected
            .map_err(|_| DialError::TimedOut {
                target: target(),
                limit: limits::DIAL,
            })?
            .map_err(|source| DialError::Connect {
                target: target(),
                source,
            })
    }
}

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = DialError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.dial().await.map(TokioIo::new) })
    }
}
