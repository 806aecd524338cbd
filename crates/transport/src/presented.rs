//! The identity that this process presents to its callers, and its rotation.

use std::fmt;
use std::sync::Arc;

use countersign_identity::{KeyId, SpiffeId, UnixTime};
use tokio::sync::watch;

/// One generation of this process's identity.
#[derive(Clone)]
pub struct Presented {
    /// The configuration with exactly this certificate.
    pub config: Arc<rustls::ServerConfig>,
    /// The certificate's SPIFFE ID.
    pub id: SpiffeId,
    /// Its key.
    pub kid: KeyId,
    /// When the certificate expires.
    pub not_after: UnixTime,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            config: _,
            id,
            kid,
            not_after,
        } = self;
        f.debug_struct("Presented")
            .field("id", id)
            .field("kid", kid)
            .field("not_after", not_after)
            .finish()
    }
}

/// A watch on the identity that new connections present.
pub type Identities = watch::Receiver<Option<Arc<Presented>>>;

/// The source of a listener's identity.
pub trait ServerIdentity: Send + Sync + 'static {
    /// The identity for new connections; `None` refuses them.
    fn current(&self) -> Option<Arc<Presented>> {
        self.subscribe().borrow().clone()
    }

    /// A watch on the identity. Each new `Arc` is a new generation: connections that presented an older one are closed
    /// gracefully (GOAWAY), so publish only when the certificate has changed.
    fn subscribe(&self) -> Identities;
}

impl ServerIdentity for Identities {
    fn subscribe(&self) -> Identities {
        self.clone()
    }
}
