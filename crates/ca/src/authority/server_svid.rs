//! The server's own X.509-SVID, which listeners present to new TLS connections.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::bundle::Bundles;
use countersign_identity::tls::{
    ALPN_H2, ALPN_HTTP11, ClientAuth, ExpectedPeer, KeyExchange, TlsContext, TlsVersions,
};
use countersign_identity::{SpiffeId, TrustDomain, UnixTime, X509Svid};
use countersign_transport::clock::{self, RustlsTime};
use countersign_transport::error::{BoxError, Chain};
use countersign_transport::{Presented, SharedClock};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::{info, warn};

use super::schedule::Validity;
use super::{Authority, SignError};

/// The backoff after a failure, and the least time between two renewals: near its end an authority signs for so short a
/// time that half of it, back-dating included, is over at once.
const PAUSE: Duration = Duration::from_secs(5);

/// How often to check whether the authority behind the SVID was tainted.
const TAINT_CHECK: Duration = Duration::from_secs(5);

/// Why the server has no new SVID.
#[derive(Debug, thiserror::Error)]
pub enum ServerSvidError {
    /// The authority could not sign it.
    #[error("the server's own X.509-SVID could not be signed")]
    Sign(#[from] SignError),
    /// rustls refused the certificate or key.
    #[error("the server's own X.509-SVID could not be used for TLS")]
    Tls(#[from] rustls::Error),
}

/// Rotates the server's SVID, with a new key each time: after half of its lifetime, and when its root is tainted (wire
/// contract, E.4).
#[derive(Debug)]
pub struct ServerSvid {
    authority: Authority,
    trust_domain: TrustDomain,
    bundles: Arc<dyn Bundles>,
    callers: ExpectedPeer,
    tls: TlsContext,
    clock: SharedClock,
    current: watch::Sender<Option<Arc<Presented>>>,
    chain: watch::Sender<Arc<[CertificateDer<'static>]>>,
    root_id: String,
    anonymous: watch::Sender<Option<Arc<Presented>>>,
    not_after: UnixTime,
    renew_at: UnixTime,
}

impl ServerSvid {
    /// Signs the first SVID. Each handshake verifies a client certificate against the current `bundles`: it must be of the
    /// authority's trust domain or one of `admins`. Clients without a certificate are accepted, since node agents have none
    /// before attestation.
    ///
    /// # Errors
    /// There is no authority, or the SVID can't be signed or used.
    pub async fn open(
        authority: Authority,
        bundles: Arc<dyn Bundles>,
        admins: Arc<HashSet<SpiffeId>>,
        key_exchange: KeyExchange,
        clock: SharedClock,
    ) -> Result<Self, ServerSvidError> {
        let trust_domain = authority.settings().trust_domain.clone();
        let mut this = Self {
            callers: ExpectedPeer::MemberOrOneOf(trust_domain.clone(), admins),
            trust_domain,
            tls: TlsContext::new(Arc::clone(&bundles), RustlsTime::shared(Arc::clone(&clock)))
                .exchanging(key_exchange),
            authority,
            bundles,
            current: watch::Sender::new(None),
            chain: watch::Sender::new(Arc::from([])),
            root_id: String::new(),
            anonymous: watch::Sender::new(None),
            not_after: clock.now(),
            renew_at: clock.now(),
            clock,
        };
        this.renew().await?;
        Ok(this)
    }

    /// A watch on the identity that listeners present.
    #[must_use]
    pub fn identity(&self) -> watch::Receiver<Option<Arc<Presented>>> {
        self.current.subscribe()
    }

    /// A watch on the SVID's certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> watch::Receiver<Arc<[CertificateDer<'static>]>> {
        self.chain.subscribe()
    }

    /// The identity for a listener that requests no client certificate and also speaks HTTP/1.1: the bundle endpoint.
    #[must_use]
    pub fn anonymous_identity(&self) -> watch::Receiver<Option<Arc<Presented>>> {
        self.anonymous.subscribe()
    }

    /// Runs until `stop`. Renews the SVID after half of its lifetime, if a new one would last longer, and when its root is
    /// tainted, if a new one would lead to another root.
    ///
    /// # Errors
    /// None of its own: a failure is logged and retried, and the current SVID stays in use.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        loop {
            let look = clock::until(&*self.clock, self.renew_at);
            let look = tokio::time::timeout(TAINT_CHECK, look);
            let Some(looked) = stop.run_until_cancelled(look).await else {
                return Ok(());
            };
            let due = looked.is_ok();
            // Each renewal closes all connections gracefully. Near the end of an authority it would gain nothing: the next
            // authority is about to take over.
            let gains = due && self.authority.server_svid_end() > Some(self.not_after);
            if gains || self.must_leave_root() {
                self.try_renew().await;
            } else if due {
                self.renew_at = self.clock.now().after(PAUSE);
            }
        }
    }

    async fn try_renew(&mut self) {
        let span = span!("renew server svid");
        if let Err(error) = self.renew().instrument(span).await {
            self.renew_at = self.clock.now().after(PAUSE);
            warn!(
                error = %Chain(&error),
                seconds_left = self.not_after.since(self.clock.now()).as_secs(),
                "Server SVID was not renewed"
            );
        }
    }

    /// Whether the SVID's root was tainted while another one is in use.
    fn must_leave_root(&self) -> bool {
        let Some(bundle) = self.bundles.bundle(self.trust_domain.as_str()) else {
            return false;
        };
        let mut roots = bundle.x509_authorities.iter();
        let tainted = roots.any(|root| root.is_tainted() && root.authority_id() == self.root_id);
        tainted
            && self
                .authority
                .root_id()
                .is_some_and(|id| id != self.root_id)
    }

    async fn renew(&mut self) -> Result<(), ServerSvidError> {
        let (svid, root_id) = self.authority.sign_server().await?;
        let agents = self.present(&svid, ClientAuth::Optional, &[ALPN_H2])?;
        let anonymous = self.present(&svid, ClientAuth::Never, &[ALPN_H2, ALPN_HTTP11])?;
        self.current.send_replace(Some(Arc::new(agents)));
        self.anonymous.send_replace(Some(Arc::new(anonymous)));
        self.chain.send_replace(Arc::from(svid.chain()));
        let validity = Validity {
            not_before: svid.not_before(),
            not_after: svid.not_after(),
        };
        self.root_id = root_id;
        self.not_after = validity.not_after;
        self.renew_at = validity
            .half_life()
            .max(earliest(validity.not_after, self.clock.now()));
        info!(id = %svid.id(), expires = %svid.not_after(), serial = svid.leaf().serial, "Server SVID renewed");
        Ok(())
    }

    fn present(
        &self,
        svid: &X509Svid,
        callers: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<Presented, rustls::Error> {
        let config = self.tls.server(
            svid,
            callers,
            self.callers.clone(),
            TlsVersions::From12,
            alpn,
        )?;
        Ok(Presented {
            config: Arc::new(config),
            id: svid.id().clone(),
            kid: svid.kid(),
            not_after: svid.not_after(),
        })
    }
}

/// When a certificate that was issued now and ends at `not_after` may be renewed: after the pause, or after half of what
/// is left if that is shorter, but never at once.
fn earliest(not_after: UnixTime, now: UnixTime) -> UnixTime {
    let half = not_after.since(now) / 2;
    now.after(half.min(PAUSE).max(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_keep_a_distance_however_short_the_life_is() {
        let now = UnixTime::from_secs(100);
        for (left, earliest_in) in [(3600, 5), (10, 5), (6, 3), (3, 1), (1, 1), (0, 1)] {
            let not_after = now.after(Duration::from_secs(left));
            assert_eq!(
                earliest(not_after, now).since(now).as_secs(),
                earliest_in,
                "{left}"
            );
        }
    }
}
