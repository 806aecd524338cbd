//! The life of the authorities: prepared and published, active, old, and at last pruned from the bundle.
//!
//! The order is what makes it safe. A key is durable before the journal names it; the journal and the bundle change in
//! one commit; nothing is signed before that commit holds. A crash between any two steps leaves a key that no slot
//! names, which the next start removes, or a slot that another step continues.
//!
//! [`Rotation`] is the one writer: what is due by the clock and what an administrator commands go through it one after
//! the other.

mod command;
mod prepare;
mod publication;
mod reconcile;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::{Bundle, UnixTime};
use countersign_store::backend::Seq;
use countersign_store::{BundleChange, Store};
use countersign_transport::SharedClock;
use countersign_transport::error::{BoxError, Chain};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::{info, warn};

use super::command::{Envelope, Inbox};
use super::error::RotationError;
use super::journal::{Journal, Kind, Named, Slot};
use super::schedule::{Step, next_step};
use super::{Authority, Settings};
use crate::keymanager::{KeyManager, KeyName, ManagedKey};
use crate::metrics::{ACTIVATIONS, ROTATION_FAILURES};
use crate::upstream::UpstreamAuthority;
use publication::Publication;
use upstream::Upstream;

/// The longest interval between two checks of the authorities; shorter if a step is due earlier.
const CHECK: Duration = Duration::from_secs(10);
/// The most steps per kind in one check; a first start takes two. Without this limit an upstream authority that signs for a
/// very short time would keep the loop busy for ever.
const MAX_STEPS: usize = 4;
/// The longest interval between two prunings of the bundle; shorter for short-lived authorities.
const PRUNE_AT_MOST: Duration = Duration::from_secs(6 * 60 * 60);

/// Owns the journal: the only writer of authorities.
pub struct Rotation {
    authority: Authority,
    keys: Arc<dyn KeyManager>,
    store: Store,
    server_id: String,
    clock: SharedClock,
    journal: Journal,
    held: HashMap<KeyName, ManagedKey>,
    prune_at: UnixTime,
    inbox: Inbox,
    /// The last commit of the journal.
    last_commit: Seq,
    upstream: Option<Upstream>,
    /// Whether the outcome of the last commit is unknown: it failed, but may have taken effect.
    in_doubt: bool,
}

impl Rotation {
    /// Takes up the authorities where the journal left them and brings them up to date: when this returns, there is an
    /// active authority of each kind, and it is in the bundle.
    ///
    /// `server_id` names this server's row in the journal; it must be the same after each restart.
    ///
    /// # Errors
    /// The key manager or the store failed, or the clock is behind.
    pub async fn open(
        settings: Settings,
        keys: Arc<dyn KeyManager>,
        store: Store,
        server_id: String,
        clock: SharedClock,
    ) -> Result<Self, RotationError> {
        Self::open_with_upstream(settings, keys, store, server_id, clock, None).await
    }

    /// As [`Rotation::open`], but X.509 authorities are signed by the upstream authority, if there is one. If it is
    /// unreachable, this waits for it at most [`limits::UPSTREAM_PATIENCE`](crate::limits::UPSTREAM_PATIENCE), and only if
    /// there is no valid authority to start with.
    ///
    /// # Errors
    /// As [`Rotation::open`]; or the upstream authority is unreachable, or the authority that it signed can't be used.
    pub async fn open_with_upstream(
        settings: Settings,
        keys: Arc<dyn KeyManager>,
        store: Store,
        server_id: String,
        clock: SharedClock,
        upstream: Option<Arc<dyn UpstreamAuthority>>,
    ) -> Result<Self, RotationError> {
        let stored = store.journal_get(&server_id).await?;
        let journal = stored
            .as_ref()
            .map(Journal::from_stored)
            .unwrap_or_default();
        let held = prepare::blocking(&keys, |keys| keys.list()).await?;
        let held = held
            .into_iter()
            .map(|key| (key.name().clone(), key))
            .collect();
        let (authority, inbox) = Authority::new(settings, Arc::clone(&clock));
        let mut this = Self {
            authority,
            keys,
            store,
            server_id,
            prune_at: clock.now(),
            clock,
            journal,
            held,
            inbox,
            last_commit: Seq::ZERO,
            upstream: upstream.map(Upstream::new),
            in_doubt: false,
        };
        this.reconcile().await?;
        this.begin().await?;
        Ok(this)
    }

    /// The handle that signs with the active authorities.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.authority.clone()
    }

    /// The authorities as they were last committed.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Rotates and prunes when it is due, and as administrators command, until `stop`.
    ///
    /// # Errors
    /// None of its own: a failed step is logged and retried at the next check.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut next = self.clock.now();
        loop {
            let wait = next.since(self.clock.now()).min(CHECK);
            // A step that was begun is finished: `stop` counts between steps only.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(envelope) = self.inbox.recv() => self.answer(envelope).await,
                () = upstream::changed(self.upstream.as_mut()) => {}
                () = tokio::time::sleep(wait) => {}
            }
            next = self.clock.now().after(CHECK);
            match self.advance().await {
                Ok(due) => next = next.min(due),
                Err(error) => {
                    ::metrics::counter!(ROTATION_FAILURES).increment(1);
                    warn!(
                        error = %Chain(&error),
                        "Authority could not be rotated: trying again in {} s",
                        CHECK.as_secs()
                    );
                }
            }
        }
    }

    async fn answer(&mut self, envelope: Envelope) {
        let Envelope { command, reply } = envelope;
        let outcome = match self.settle().await {
            Ok(()) => self.carry_out(command).await,
            Err(error) => Err(error.into()),
        };
        // The caller may be gone; the command took effect all the same.
        let _ = reply.send(outcome);
    }

    /// Does everything that is due now, and returns when the next step is due. If one kind fails, the other still advances.
    ///
    /// # Errors
    /// The key manager or the store failed; what was done before that holds, and calling again goes on from there.
    pub async fn advance(&mut self) -> Result<UnixTime, RotationError> {
        self.settle().await?;
        let followed = self.follow().await;
        let x509 = self.advance_kind(Kind::X509).await;
        let jwt = match self.settings().jwt {
            Some(_) => self.advance_kind(Kind::Jwt).await,
            None => Ok(UnixTime::from_secs(u64::MAX)),
        };
        self.settle().await?;
        self.prune().await?;
        followed?;
        Ok(x509?.min(jwt?))
    }

    async fn advance_kind(&mut self, kind: Kind) -> Result<UnixTime, RotationError> {
        // Each commit writes the whole journal, so it would overwrite one that took effect although it reported an error.
        self.settle().await?;
        for _ in 0..MAX_STEPS {
            let (active, prepared) = match kind {
                Kind::X509 => self.journal.x509.validities(),
                Kind::Jwt => self.journal.jwt.validities(),
            };
            match next_step(active, prepared, self.clock.now()) {
                Step::Prepare => {
                    let span = span!("prepare authority", kind = kind.label());
                    self.prepare(kind).instrument(span).await?;
                }
                Step::Activate => {
                    let span = span!("activate authority", kind = kind.label());
                    self.activate(kind).instrument(span).await?;
                }
                Step::WaitUntil(due) => return Ok(due),
            }
        }
        Ok(self.clock.now().after(CHECK))
    }

    /// Makes the prepared authority the one that signs.
    async fn activate(&mut self, kind: Kind) -> Result<(), RotationError> {
        let journal = match kind {
            Kind::X509 => {
                let slots = self.journal.x509.with_activated();
                self.journal.with_x509(slots)
            }
            Kind::Jwt => self.journal.with_jwt(self.journal.jwt.with_activated()),
        };
        // Checked before the commit: an authority that can't sign must not replace one that can.
        if !self.can_sign(kind, &journal) {
            return Err(RotationError::KeyMissing);
        }
        self.write(&journal, Publication::default()).await?;
        self.take(journal).await;
        self.start_signing(kind)
    }

    fn can_sign(&self, kind: Kind, journal: &Journal) -> bool {
        match kind {
            Kind::X509 => journal.x509.active().is_some_and(|s| self.usable_x509(s)),
            Kind::Jwt => journal.jwt.active().is_some_and(|s| self.usable_jwt(s)),
        }
    }

    /// Lets the active authority of the journal sign, if there is one.
    fn start_signing(&self, kind: Kind) -> Result<(), RotationError> {
        match kind {
            Kind::X509 => {
                if let Some((slot, key)) = self.with_key(self.journal.x509.active()) {
                    log_active(kind, slot);
                    self.authority.activate_x509(slot.issuing_ca(key)?);
                }
            }
            Kind::Jwt => {
                if let Some((slot, key)) = self.with_key(self.journal.jwt.active()) {
                    log_active(kind, slot);
                    let signer = slot.signer(key).ok_or(RotationError::KeyMissing)?;
                    self.authority.activate_jwt(signer);
                }
            }
        }
        Ok(())
    }

    fn with_key<'a, A>(
        &'a self,
        slot: Option<&'a Slot<A>>,
    ) -> Option<(&'a Slot<A>, &'a ManagedKey)> {
        slot.and_then(|slot| Some((slot, self.held.get(&slot.key)?)))
    }

    /// Drops authorities from the bundle that expired long ago.
    async fn prune(&mut self) -> Result<(), RotationError> {
        let now = self.clock.now();
        // Authorities expire hours or days apart: most checks need not read the bundle.
        if now < self.prune_at {
            return Ok(());
        }
        let ca_ttl = self.settings().ca_ttl;
        let edit = move |bundle: &mut Bundle| publication::prune(bundle, ca_ttl, now);
        // Tried on a copy first: there is rarely anything to remove, and a commit costs a sync of the disk.
        let bundle = self.store.bundle_get(&self.settings().trust_domain).await?;
        if bundle.is_some_and(|mut bundle| edit(&mut bundle) == BundleChange::Changed) {
            self.commit(&self.journal.clone(), edit).await?;
            info!("Expired authorities removed from the bundle");
        }
        self.prune_at = now.after(ca_ttl.min(PRUNE_AT_MOST));
        Ok(())
    }

    /// Writes the journal, and publishes the authorities that the bundle lacks, in one commit.
    async fn write(
        &mut self,
        journal: &Journal,
        publication: Publication,
    ) -> Result<(), RotationError> {
        self.commit(journal, |bundle| publication.add_to(bundle))
            .await
    }

    /// Writes the journal and changes the bundle, in one commit.
    async fn commit(
        &mut self,
        journal: &Journal,
        edit: impl Fn(&mut Bundle) -> BundleChange + Send + Sync,
    ) -> Result<(), RotationError> {
        let trust_domain = &self.settings().trust_domain;
        let journal = journal.to_stored();
        let written = self
            .store
            .journal_put(&self.server_id, &journal, trust_domain, edit)
            .await;
        self.in_doubt = written.is_err();
        self.last_commit = written?.seq();
        Ok(())
    }

    /// Adopts a committed journal, and removes the keys that it no longer names.
    async fn take(&mut self, journal: Journal) {
        self.authority.publish(&journal);
        self.journal = journal;
        let unused: Vec<_> = self
            .held
            .keys()
            .filter(|name| !self.journal.names(name))
            .cloned()
            .collect();
        for name in unused {
            self.forget(&name).await;
        }
    }

    fn settings(&self) -> &Settings {
        self.authority.settings()
    }
}

fn log_active<A: Named>(kind: Kind, slot: &Slot<A>) {
    ::metrics::counter!(ACTIVATIONS, "kind" => kind.label()).increment(1);
    info!(
        authority_id = slot.id(),
        expires = %slot.validity.not_after,
        "{kind} authority active"
    );
}
