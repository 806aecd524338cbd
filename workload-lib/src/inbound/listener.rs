//! Connections for people with their own server: accepted, mutually authenticated, and cut when their time is over.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use countersign_transport::accept::{AcceptLimits, ConnectionPermit, accept_tls};
use countersign_transport::drain::Drain;
use countersign_transport::tls::TlsIo;
use countersign_transport::{Connection, TlsAcceptor, limits};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::peer::PeerInfo;

/// Accepted connections, for `tonic`'s `serve_with_incoming` (it is a stream) and for `axum::serve` (it is a listener).
///
/// Either server must have [`Mesh::inbound_layer`](crate::Mesh::inbound_layer) as its outermost layer. Under axum, serve
/// `router.into_make_service_with_connect_info::<PeerInfo>()`, so that the layer knows who is there.
///
/// Chains come with certificates: allow headers of [`HEADER_BYTES`](crate::limits::HEADER_BYTES)
/// (`http2_max_header_list_size` of tonic's server; axum's own server stops at 16 KiB, [`Mesh::serve`](crate::Mesh::serve) does not).
///
/// Unlike [`Mesh::serve`](crate::Mesh::serve), a server over this listener does not ask connections to go when the SVID
/// has rotated; they end when the certificate that they were shown does.
#[derive(Debug)]
pub struct MeshListener {
    accepted: mpsc::Receiver<MeshIo>,
    local: SocketAddr,
    _stop: DropGuard,
}

/// One accepted connection.
#[derive(Debug)]
pub struct MeshIo {
    io: TlsIo<TcpStream>,
    connection: Arc<Connection>,
}

impl MeshListener {
    pub(crate) fn new(tcp: TcpListener, acceptor: TlsAcceptor) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let stop = CancellationToken::new();
        let (found, accepted) = mpsc::channel(limits::HANDSHAKES);
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(accept(tcp, acceptor, found)),
        );
        Ok(Self {
            accepted,
            local,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

async fn accept(tcp: TcpListener, acceptor: TlsAcceptor, found: mpsc::Sender<MeshIo>) {
    // Connections count until the server takes them: those that wait for it are bounded like those in their handshake.
    let limits = AcceptLimits {
        handshakes: limits::HANDSHAKES,
        connections: limits::HANDSHAKES,
    };
    let stop = CancellationToken::new();
    let serve = move |io, connection, permit: ConnectionPermit| {
        let found = found.clone();
        async move {
            drop(found.send(MeshIo { io, connection }).await);
            drop(permit);
        }
    };
    accept_tls(tcp, acceptor, limits, &Drain::new(&stop), &stop, serve).await;
}

impl Stream for MeshListener {
    type Item = io::Result<MeshIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|io| io.map(Ok))
    }
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for MeshListener {
    type Io = MeshIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (MeshIo, SocketAddr) {
        match self.accepted.recv().await {
            Some(io) => {
                let address = io.connection.tcp_address().unwrap_or(self.local);
                (io, address)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, MeshListener>>
    for PeerInfo
{
    fn connect_info(stream: axum::serve::IncomingStream<'_, MeshListener>) -> Self {
        Self(Arc::clone(&stream.io().connection))
    }
}

#[cfg(feature = "grpc")]
impl tonic::transport::server::Connected for MeshIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        PeerInfo(Arc::clone(&self.connection))
    }
}

impl AsyncRead for MeshIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for MeshIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
