//! Who is at the other end of a connection.
//!
//! Made once per connection, after its handshake, and put into the extensions of each of its requests as
//! `Arc<Connection>`. The caller's identity never comes from a header.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use countersign_identity::verify::VerifiedLeaf;
use countersign_identity::{KeyId, SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, SharedClock};
use crate::presented::Presented;
use crate::process::PeerProcess;

/// One accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// Its origin.
    pub address: Address,
    /// The peer, if it presented a certificate, which the handshake verified.
    pub peer: Option<Arc<Peer>>,
    /// The identity that this side presented; none on Unix sockets.
    pub presented: Option<Arc<Presented>>,
    /// Cancelling it cuts the connection at once, with all exchanges on it.
    pub cut: CancellationToken,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub enum Address {
    /// Over the network.
    Tcp(SocketAddr),
    /// Over a Unix socket, from this process.
    Unix(UnixCaller),
}

/// The process at the other end of a Unix socket, as the kernel reported it when it connected.
#[derive(Clone, Debug)]
pub struct UnixCaller {
    /// Process ID, if it can be seen from this process's PID namespace.
    pub pid: Option<i32>,
    /// Effective user ID.
    pub uid: u32,
    /// Effective group ID.
    pub gid: u32,
    /// The process itself, safe against PID reuse; none if it is not visible in this PID namespace or has exited.
    pub process: Option<Arc<PeerProcess>>,
}

impl UnixCaller {
    /// Whether this process called itself: no other has its PID while it lives.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        self.pid.is_some() && self.pid == i32::try_from(std::process::id()).ok()
    }
}

/// The verified peer of a TLS connection.
#[derive(Debug)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The key of its leaf certificate.
    pub kid: KeyId,
    /// The leaf's serial number, decimal.
    pub serial: String,
    /// The certificates that it presented: the leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf expires; the connection is cut then.
    pub not_after: UnixTime,
    /// Where it called from.
    pub address: SocketAddr,
    /// The connection's own token.
    pub cut: CancellationToken,
}

impl Peer {
    pub(crate) fn new(
        leaf: VerifiedLeaf,
        chain: &[CertificateDer<'_>],
        address: SocketAddr,
        cut: CancellationToken,
    ) -> Self {
        let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
        let leaf = leaf.into_leaf();
        Self {
            id: leaf.id,
            kid: leaf.kid,
            serial: leaf.serial,
            chain,
            not_after: leaf.not_after,
            address,
            cut,
        }
    }
}

impl Connection {
    /// A connection from the caller of a Unix socket.
    #[must_use]
    pub fn unix(caller: UnixCaller, cut: CancellationToken) -> Self {
        Self {
            address: Address::Unix(caller),
            peer: None,
            presented: None,
            cut,
        }
    }

    /// When the first of the two certificates expires; none on Unix sockets.
    #[must_use]
    pub fn not_after(&self) -> Option<UnixTime> {
        let peer = self.peer.as_ref().map(|peer| peer.not_after);
        let own = self.presented.as_ref().map(|own| own.not_after);
        peer.into_iter().chain(own).min()
    }

    /// The caller's process, on a Unix socket.
    #[must_use]
    pub const fn unix_caller(&self) -> Option<&UnixCaller> {
        match &self.address {
            Address::Unix(caller) => Some(caller),
            Address::Tcp(_) => None,
        }
    }

    /// The caller's network address, over TCP.
    #[must_use]
    pub const fn tcp_address(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        }
    }
}

/// The unit of addresses that is assumed to belong to one caller: an IPv4 address, or an IPv6 /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(UnixCaller {
                pid: Some(pid),
                uid,
                ..
            }) => write!(f, "unix:pid={pid},uid={uid}"),
            Self::Unix(UnixCaller { uid, .. }) => write!(f, "unix:uid={uid}"),
        }
    }
}

/// Why this side cut a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Its token was cancelled.
    #[error("the connection was cut")]
    Cut,
    /// One of the two leaf certificates expired.
    #[error("a certificate of the connection has expired")]
    Expired,
}

/// Waits until a connection must be cut: its token is cancelled, or one of the certificates expires.
pub async fn ended(
    cut: CancellationToken,
    not_after: Option<UnixTime>,
    clock: SharedClock,
) -> Ended {
    let Some(not_after) = not_after else {
        cut.cancelled().await;
        return Ended::Cut;
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => Ended::Cut,
        () = clock::until(&*clock, not_after) => {
            // Wakes everything else that waits for the token.
            cut.cancel();
            Ended::Expired
        }
    }
}
