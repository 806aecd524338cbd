//! One generation of this process's identity: an SVID with all that is made from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_identity::tls::{
    ALPN_H2, ALPN_HTTP11, ClientAuth, ExpectedPeer, TlsContext, TlsVersions,
};
use countersign_identity::{SpiffeId, X509Svid};
use countersign_mesh::SigningIdentity;
use countersign_transport::clock::RustlsTime;
use countersign_transport::{Presented, SharedClock};
use tokio::sync::watch;

use super::Trust;
use crate::svid::Svid;

/// What listeners present, as it changes.
pub(crate) type Presenting = watch::Receiver<Option<Arc<Presented>>>;

/// An SVID and its TLS configurations. A call takes one generation, signs with its key and goes out on connections that
/// present its certificate; a rotation makes the next generation and leaves this one to those who still hold it.
#[derive(Debug)]
pub(crate) struct Generation {
    number: u64,
    svid: X509Svid,
    shown: Arc<Svid>,
    signer: SigningIdentity,
    presented: Arc<Presented>,
    tls: TlsContext,
    outdated: AtomicBool,
}

impl Generation {
    pub(crate) fn new(
        number: u64,
        svid: X509Svid,
        signer: SigningIdentity,
        trust: &Arc<Trust>,
        clock: &SharedClock,
    ) -> Result<Self, rustls::Error> {
        let tls = TlsContext::new(
            Arc::<Trust>::clone(trust),
            RustlsTime::shared(Arc::clone(clock)),
        );
        let alpn = [ALPN_H2, ALPN_HTTP11];
        let config = tls.server(
            &svid,
            ClientAuth::Required,
            ExpectedPeer::Anyone,
            TlsVersions::Only13,
            &alpn,
        )?;
        let presented = Arc::new(Presented {
            config: Arc::new(config),
            id: svid.id().clone(),
            kid: svid.kid(),
            not_after: svid.not_after(),
        });
        Ok(Self {
            number,
            shown: Svid::of(&svid),
            svid,
            signer,
            presented,
            tls,
            outdated: AtomicBool::new(false),
        })
    }

    /// Generations count from 1.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// The SVID as the application sees it.
    pub(crate) const fn shown(&self) -> &Arc<Svid> {
        &self.shown
    }

    /// Notes that an authority was removed: connections from before may have been verified under it.
    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Release);
    }

    /// Whether an authority was removed since connections of this generation began to be made.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Acquire)
    }

    /// Signs the links of the calls that go out under this generation.
    pub(crate) const fn signer(&self) -> &SigningIdentity {
        &self.signer
    }

    pub(crate) const fn presented(&self) -> &Arc<Presented> {
        &self.presented
    }

    /// The configuration for connections to exactly this callee.
    pub(crate) fn client(
        &self,
        callee: SpiffeId,
        alpn: &[&[u8]],
    ) -> Result<rustls::ClientConfig, rustls::Error> {
        self.tls.client(
            Some(&self.svid),
            ExpectedPeer::Exactly(callee),
            TlsVersions::Only13,
            alpn,
        )
    }
}
