//! Rotation with an upstream authority, which signs this server's X.509 authorities, publishes its JWT keys, and owns the
//! trust domain's bundle.
//!
//! While the upstream is unreachable the active authorities go on signing, and the failed step is retried.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::Bundle;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::issue::authority_request;
use countersign_identity::issued_ca::{self, InvalidIssuedCa};
use countersign_transport::backoff::Backoff;
use countersign_transport::error::Chain;
use tokio::time::Instant;
use tracing::{info, warn};

use super::prepare::{Certified, blocking_job};
use super::{Rotation, RotationError, publication};
use crate::authority::Settings;
use crate::authority::journal::{Kind, X509};
use crate::keymanager::ManagedKey;
use crate::limits;
use crate::upstream::{BundleUpdates, Minted, Published, UpstreamAuthority, UpstreamBundle};

/// Initial backoff while the upstream authority is unreachable at start.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Maximum backoff between two attempts at start.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The upstream authority, and which version of its bundle was applied last.
pub(super) struct Upstream {
    pub(super) authority: Arc<dyn UpstreamAuthority>,
    updates: Option<BundleUpdates>,
    followed: Option<Arc<UpstreamBundle>>,
    warned_unsupported: bool,
}

impl Upstream {
    pub(super) fn new(authority: Arc<dyn UpstreamAuthority>) -> Self {
        Self {
            updates: authority.bundle(),
            authority,
            followed: None,
            warned_unsupported: false,
        }
    }

    /// The upstream bundle, if one was received that has not been applied yet.
    fn news(&self) -> Option<Arc<UpstreamBundle>> {
        let present = self.updates.as_ref()?.borrow().clone()?;
        (self.followed.as_ref() != Some(&present)).then_some(present)
    }

    /// Publishes a JWT key upstream. Returns the JWT keys to add to this server's own bundle.
    pub(super) async fn publish(
        &mut self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, RotationError> {
        match self.authority.publish_jwt_key(&key).await? {
            Published::Upstream(mut keys) => {
                // An upstream that answers from its cache may not list the key yet. It must be in our own bundle before the
                // first token is signed with it (decision 0013).
                if !keys.iter().any(|known| known.key_id == key.key_id) {
                    keys.push(key);
                }
                Ok(keys)
            }
            Published::Unsupported => {
                if !std::mem::replace(&mut self.warned_unsupported, true) {
                    warn!(
                        upstream = self.authority.name(),
                        "This upstream authority takes no JWT keys: only workloads that have this server's own bundle can verify \
                         its JWT-SVIDs"
                    );
                }
                Ok(vec![key])
            }
        }
    }
}

/// Waits until the upstream bundle may have changed. Never returns without an upstream, or if it has no bundle to watch.
pub(super) async fn changed(upstream: Option<&mut Upstream>) {
    let changed = match upstream.and_then(|upstream| upstream.updates.as_mut()) {
        Some(updates) => updates.changed().await.is_ok(),
        None => false,
    };
    // No upstream, or its sender is gone: stay pending, so that the caller's `select!` does not spin.
    if !changed {
        std::future::pending::<()>().await;
    }
}

impl Rotation {
    /// The first round after start. An unreachable upstream is fatal only if no authority here can sign yet, and only after
    /// [`limits::UPSTREAM_PATIENCE`].
    pub(super) async fn begin(&mut self) -> Result<(), RotationError> {
        let patience = Instant::now() + limits::UPSTREAM_PATIENCE;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let error = match self.advance().await {
                Ok(_) => return Ok(()),
                Err(error @ (RotationError::Upstream(_) | RotationError::Minted(_))) => error,
                Err(error) => return Err(error),
            };
            if self.signs() {
                warn!(error = %Chain(&error), "Starting with the existing authorities: the upstream authority failed");
                return Ok(());
            }
            if Instant::now() >= patience {
                return Err(error);
            }
            let wait = backoff.next_wait();
            warn!(error = %Chain(&error), "Waiting for the upstream authority");
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether each configured kind has an active authority that has not expired.
    fn signs(&self) -> bool {
        let now = self.clock.now();
        let valid = |validity: Option<crate::authority::schedule::Validity>| {
            validity.is_some_and(|validity| !validity.is_over(now))
        };
        valid(self.journal.x509.validities().0)
            && (self.settings().jwt.is_none() || valid(self.journal.jwt.validities().0))
    }

    /// Has the upstream authority certify a key, and checks what comes back.
    pub(super) async fn certify_upstream(
        &self,
        upstream: &Arc<dyn UpstreamAuthority>,
        key: &ManagedKey,
    ) -> Result<Certified, RotationError> {
        let Settings {
            trust_domain,
            ca_subject,
            ca_ttl,
            ..
        } = self.settings().clone();
        let (signer, domain) = (key.clone(), trust_domain.clone());
        let request =
            blocking_job(move || authority_request(&domain, &ca_subject, &signer)).await??;
        let Minted { mut chain, roots } = upstream.mint_x509_ca(request, ca_ttl).await?;
        // SVIDs are sent without the root: peers have it in their bundle.
        chain.retain(|der| !roots.iter().any(|root| root.der() == der));
        let (now, signer) = (self.clock.now(), key.signer());
        let (whole, known) = (chain.clone(), roots.clone());
        let check = move || issued_ca::authority(&trust_domain, &whole, &known, signer, now);
        let certificate = blocking_job(check).await??.authority().clone();
        Ok(Certified {
            authority: X509 {
                certificate,
                issuers: chain.into_iter().skip(1).collect(),
            },
            roots,
        })
    }

    /// Applies a changed upstream bundle to our own (decision 0013). If the active authority leads to no untainted root of
    /// it, that authority is replaced first: when peers see the new bundle, nothing is signed with it any more.
    pub(super) async fn follow(&mut self) -> Result<(), RotationError> {
        if self.was_root() {
            // Prepared now, activated when it is due: peers need the upstream roots in their bundles first (decision 0013).
            self.prepare(Kind::X509).await?;
        }
        let Some(news) = self.upstream.as_ref().and_then(Upstream::news) else {
            return Ok(());
        };
        if !self.is_root()
            && let Err(reason) = self.leads_to(&news.x509).await?
        {
            info!(%reason, "The active X.509 authority leads to no untainted upstream root: replacing it at once");
            self.prepare(Kind::X509).await?;
            self.activate(Kind::X509).await?;
        }
        self.mirror(&news).await?;
        if let Some(upstream) = &mut self.upstream {
            upstream.followed = Some(news);
        }
        Ok(())
    }

    /// Whether the active authority is self-signed.
    fn is_root(&self) -> bool {
        let active = self.journal.x509.active();
        active.is_some_and(|slot| slot.authority.certificate.is_root())
    }

    /// Whether this server was a root until an upstream authority was configured, and has prepared no authority signed by
    /// that upstream yet.
    fn was_root(&self) -> bool {
        let prepared = self.journal.x509.prepared();
        self.upstream.is_some()
            && self.is_root()
            && prepared.is_none_or(|slot| slot.authority.certificate.is_root())
    }

    /// Whether peers that have these roots accept what the active authority signs. `Ok` without an active authority: there
    /// is nothing to replace.
    async fn leads_to(
        &self,
        roots: &[X509Authority],
    ) -> Result<Result<(), InvalidIssuedCa>, RotationError> {
        let Some((slot, key)) = self.with_key(self.journal.x509.active()) else {
            return Ok(Ok(()));
        };
        let ca = slot.issuing_ca(key)?;
        let (domain, roots) = (self.settings().trust_domain.clone(), roots.to_vec());
        let now = self.clock.now();
        blocking_job(move || issued_ca::anchored(&domain, &ca, &roots, now)).await
    }

    async fn mirror(&mut self, upstream: &UpstreamBundle) -> Result<(), RotationError> {
        let own = self.own_authorities();
        let journal = self.journal.clone();
        let edit = |bundle: &mut Bundle| publication::mirror(bundle, upstream, &own);
        self.commit(&journal, edit).await?;
        info!(
            x509_authorities = upstream.x509.len(),
            jwt_authorities = upstream.jwt.len(),
            "Bundle taken over from the upstream server"
        );
        Ok(())
    }
}
