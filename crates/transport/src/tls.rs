//! The server side of the TLS handshake.
//!
//! [`TlsAcceptor`] is for programs with an accept loop of their own; [`crate::serve::serve_tls`] is built on it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::tls::verified_client;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::connection::{self, Address, Connection, Peer};
use crate::io::CutIo;
use crate::limits;
use crate::presented::ServerIdentity;

/// IO of an accepted TLS connection.
pub type TlsIo<S> = CutIo<TlsStream<S>>;

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// This process has no identity at the moment.
    #[error("this process has no identity to present")]
    NoIdentity,
    /// The caller did not complete the handshake in time.
    #[error("the TLS handshake took longer than {} s", .0.as_secs())]
    Slow(Duration),
    /// The handshake failed: the caller's certificate, its TLS version, or its connection.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The verified certificate is not an X.509-SVID: the verifier in the configuration accepts other certificates too.
    #[error("the caller's verified certificate is not an X.509-SVID")]
    Peer(#[source] countersign_identity::verify::InvalidSvid),
}

/// Performs the server side of handshakes, and returns connections with their verified peer.
#[derive(Clone)]
pub struct TlsAcceptor {
    identity: Arc<dyn ServerIdentity>,
    clock: SharedClock,
    limit: Duration,
    cut: CancellationToken,
}

impl TlsAcceptor {
    /// Handshakes present the current value of `identity` and may take [`limits::HANDSHAKE`]. A connection is cut when
    /// one of its leaves has expired by `clock`.
    #[must_use]
    pub fn new(identity: Arc<dyn ServerIdentity>, clock: SharedClock) -> Self {
        Self {
            identity,
            clock,
            limit: limits::HANDSHAKE,
            cut: CancellationToken::new(),
        }
    }

    /// With another limit on one handshake.
    #[must_use]
    pub const fn handshake_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long one handshake may take.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// With a token that cuts every connection accepted here; each connection has a child of it.
    #[must_use]
    pub fn cut_by(mut self, cut: CancellationToken) -> Self {
        self.cut = cut;
        self
    }

    /// Performs the handshake with a caller at `address`. Run it in a task of its own, so that a slow caller does not
    /// hold up others.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept<S>(
        &self,
        stream: S,
        address: SocketAddr,
    ) -> Result<(TlsIo<S>, Arc<Connection>), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let presented = self.identity.current().ok_or(AcceptError::NoIdentity)?;
        let handshake =
            tokio_rustls::TlsAcceptor::from(Arc::clone(&presented.config)).accept(stream);
        let stream = tokio::time::timeout(self.limit, handshake)
            .await
            .map_err(|_| AcceptError::Slow(self.limit))?
            .map_err(AcceptError::Handshake)?;

        let cut = self.cut.child_token();
        let session = stream.get_ref().1;
        let leaf = verified_client(session).map_err(AcceptError::Peer)?;
        let chain = session.peer_certificates().unwrap_or_default();
        let peer = leaf.map(|leaf| Arc::new(Peer::new(leaf, chain, address, cut.clone())));
        let connection = Arc::new(Connection {
            address: Address::Tcp(address),
            peer,
            presented: Some(presented),
            cut: cut.clone(),
        });
        let end = connection::ended(cut, connection.not_after(), Arc::clone(&self.clock));
        Ok((CutIo::new(stream, end), connection))
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
