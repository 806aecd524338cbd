//! Who is at the other end of a connection, and the evidence that its request was permitted.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_transport::Connection;
use rustls_pki_types::CertificateDer;

/// Who is at the other end of a connection: made once per connection, after its handshake.
///
/// It is in the extensions of each request. Under axum's own server it is the connect info
/// (`into_make_service_with_connect_info::<PeerInfo>()`), under tonic's the one of [`MeshIo`](super::MeshIo).
///
/// # Examples
/// ```
/// use countersign::PeerInfo;
///
/// fn peer_of<B>(request: &http::Request<B>) -> String {
///     match request.extensions().get::<PeerInfo>() {
///         Some(peer) => peer.id().map_or("no identity".to_owned(), ToString::to_string),
///         None => "not served by this crate".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct PeerInfo(pub(super) Arc<Connection>);

impl PeerInfo {
    /// The peer's SPIFFE ID, as its verified certificate says; `None` without one.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        self.0.peer.as_ref().map(|peer| &peer.id)
    }

    /// The serial number of its certificate, decimal.
    #[must_use]
    pub fn serial(&self) -> Option<&str> {
        self.0.peer.as_ref().map(|peer| peer.serial.as_str())
    }

    /// What it presented: the leaf first, then intermediates.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.0.peer.as_ref().map_or(&[], |peer| &peer.chain)
    }

    /// When the connection ends: with the first of the two certificates on it.
    #[must_use]
    pub fn not_after(&self) -> Option<UnixTime> {
        self.0.not_after()
    }

    /// The network address that it called from.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.tcp_address()
    }
}

/// The evidence that a request was permitted, in its extensions. With feature `axum` it is an extractor.
///
/// # Examples
/// ```
/// use countersign::Permitted;
///
/// async fn handler(permitted: Permitted) -> String {
///     format!("{} was let in by rule {:?}", permitted.caller(), permitted.rule())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Permitted {
    pub(super) caller: SpiffeId,
    pub(super) rule: Arc<str>,
}

impl Permitted {
    /// Who called, as the connection's certificate says.
    #[must_use]
    pub const fn caller(&self) -> &SpiffeId {
        &self.caller
    }

    /// The name of the policy's rule that allowed it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}
