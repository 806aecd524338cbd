//! The identity that this process presents to its callers, as it changes.

use std::fmt;
use std::sync::Arc;

use countersign_identity::{KeyId, SpiffeId, UnixTime};
use tokio::sync::watch;

/// One generation of this process's identity, as new connections present it.
#[derive(Clone)]
pub struct Presented {
    /// The configuration with exactly this certificate.
    pub config: Arc<rustls::ServerConfig>,
    /// The certificate's SPIFFE ID.
    pub id: SpiffeId,
    /// Its key.
    pub kid: KeyId,
    /// Its end.
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

/// The identity that new connections present, as it changes.
pub type Identities = watch::Receiver<Option<Arc<Presented>>>;

/// Where a listener gets its identity from, as it changes.
pub trait ServerIdentity: Send + Sync + 'static {
    /// The identity for new connections; `None` refuses them.
    fn current(&self) -> Option<Arc<Presented>> {
        self.subscribe().borrow().clone()
    }

    /// The identity as it changes. Each new `Arc` is a new generation: connections that presented an older one are
    /// closed gracefully (GOAWAY), so publish only when the certificate has changed.
    fn subscribe(&self) -> Identities;
}

impl ServerIdentity for Identities {
    fn subscribe(&self) -> Identities {
        self.clone()
    }
}
