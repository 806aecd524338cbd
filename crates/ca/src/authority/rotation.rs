//! The life of the authorities: prepared and published, active, old, and at last pruned from the bundle.
//!
//! The order is what makes it safe. A key is durable before the journal names it; the journal and the bundle change in
//! one commit; nothing is signed before that commit holds. A crash between any two steps leaves a key that no slot
//! names, which the next start removes, or a slot that another step continues.
//!
//! [`Rotation`] is the one owner: what is due by the clock and what an administrator orders go through it one after the
//! other.

mod order;
mod prepare;
mod publication;
mod reconcile;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::bundle::InvalidAuthority;
use countersign_identity::issue::IssueError;
use countersign_identity::issued_ca::InvalidIssuedCa;
use countersign_identity::jwt::JwtIssueError;
use countersign_identity::{Bundle, UnixTime};
use countersign_store::backend::Seq;
use countersign_store::{Edit, Store, StoreError};
use countersign_transport::SharedClock;
use countersign_transport::error::BoxError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::{info, warn};

use super::journal::{Journal, Kind, Named, Slot};
use super::order::{Letter, Letters};
use super::schedule::{Step, next_step};
use super::{Authority, Settings};
use crate::keymanager::{KeyManager, KeyManagerError, KeyName, ManagedKey};
use crate::metrics::{ACTIVATIONS, ROTATION_FAILURES};
use crate::upstream::{UpstreamAuthority, UpstreamError};
use publication::Publication;
use upstream::Upstream;

/// How often the authorities are looked at; sooner if something is due sooner.
const CHECK: Duration = Duration::from_secs(10);
/// The most steps of one kind at one look; a first start takes two. An authority above may sign for so short a time that
/// there would be no end.
const MAX_STEPS: usize = 4;
/// How often expired authorities are looked for in the bundle, at most; sooner for short-lived ones.
const PRUNE_AT_MOST: Duration = Duration::from_secs(6 * 60 * 60);

/// Why an authority was not opened, prepared, activated or pruned.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The key manager failed.
    #[error("the key manager failed")]
    Keys(#[from] KeyManagerError),
    /// The store failed.
    #[error("the authority's journal and bundle could not be read or written")]
    Store(#[from] StoreError),
    /// The certificate could not be made.
    #[error("the authority's certificate could not be made")]
    Issue(#[from] IssueError),
    /// The certificate that was made can't be read back.
    #[error("the authority's certificate can't be used")]
    Certificate(#[from] InvalidAuthority),
    /// There is no ID for a JWT key.
    #[error("the JWT authority could not be made")]
    Jwt(#[from] JwtIssueError),
    /// The authority above did not do its part.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the authority above signed can't be used.
    #[error("the authority above signed what can't be used: it is not taken")]
    Minted(#[from] InvalidIssuedCa),
    /// The clock is before the time at which the active authority was made.
    #[error(
        "the clock says {now}, but the active authority is valid only from {not_before}: set the clock, then start again"
    )]
    ClockBehind {
        /// What the clock says.
        now: UnixTime,
        /// From when the authority is valid.
        not_before: UnixTime,
    },
    /// The prepared authority's key is gone.
    #[error("the key manager no longer has the key of the prepared authority")]
    KeyMissing,
    /// A blocking job ended early: it panicked, or the process is shutting down.
    #[error("a job of the key manager did not finish")]
    Job(#[source] BoxError),
}

/// Owns the journal: the one place where authorities change.
pub struct Rotation {
    authority: Authority,
    keys: Arc<dyn KeyManager>,
    store: Store,
    server_id: String,
    clock: SharedClock,
    journal: Journal,
    held: HashMap<KeyName, ManagedKey>,
    prune_at: UnixTime,
    letters: Letters,
    /// The last commit of the journal.
    written: Seq,
    upstream: Option<Upstream>,
    /// Whether a commit failed in such a way that it may have gone through all the same.
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
        Self::open_below(settings, keys, store, server_id, clock, None).await
    }

    /// As [`Rotation::open`], with X.509 authorities that another authority signs, if there is one. One that is away is waited
    /// for a little, and only if nothing can be signed without it.
    ///
    /// # Errors
    /// As [`Rotation::open`]; or the authority above is away, or signed what can't be used.
    pub async fn open_below(
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
        let (authority, letters) = Authority::new(settings, Arc::clone(&clock));
        let mut this = Self {
            authority,
            keys,
            store,
            server_id,
            prune_at: clock.now(),
            clock,
            journal,
            held,
            letters,
            written: Seq::ZERO,
            upstream: upstream.map(Upstream::new),
            in_doubt: false,
        };
        this.reconcile().await?;
        this.begin().await?;
        Ok(this)
    }

    /// What signs with the active authorities.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.authority.clone()
    }

    /// The authorities as they are written down.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Rotates and prunes when it is time, and as administrators order, until `stop`.
    ///
    /// # Errors
    /// Never by itself: a failure is logged and tried again at the next look.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut next = self.clock.now();
        loop {
            let wait = next.since(self.clock.now()).min(CHECK);
            // What was begun is ended: `stop` is looked at between steps only.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(letter) = self.letters.recv() => self.answer(letter).await,
                () = upstream::changed(self.upstream.as_mut()) => {}
                () = tokio::time::sleep(wait) => {}
            }
            next = self.clock.now().after(CHECK);
            match self.advance().await {
                Ok(due) => next = next.min(due),
                Err(error) => {
                    ::metrics::counter!(ROTATION_FAILURES).increment(1);
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "Authority could not be rotated: trying again in {} s",
                        CHECK.as_secs()
                    );
                }
            }
        }
    }

    async fn answer(&mut self, letter: Letter) {
        let Letter { order, answer } = letter;
        let done = match self.settle().await {
            Ok(()) => self.carry_out(order).await,
            Err(error) => Err(error.into()),
        };
        // Whoever asked may be gone; what was done holds all the same.
        let _ = answer.send(done);
    }

    /// Does all that is due now, and says when the next thing is. That one kind can't go on keeps the other from nothing.
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
        // Each commit writes the whole journal: one whose fate is not known must not be written over.
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
        // Before the commit: an authority that can't sign must not take the place of one that can.
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
                    told_active(kind, slot);
                    self.authority.activate_x509(slot.issuing_ca(key)?);
                }
            }
            Kind::Jwt => {
                if let Some((slot, key)) = self.with_key(self.journal.jwt.active()) {
                    told_active(kind, slot);
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
        if now < self.prune_at {
            return Ok(());
        }
        let ca_ttl = self.settings().ca_ttl;
        let edit = move |bundle: &mut Bundle| publication::prune(bundle, ca_ttl, now);
        let bundle = self.store.bundle_get(&self.settings().trust_domain).await?;
        if bundle.is_some_and(|mut bundle| edit(&mut bundle) == Edit::Changed) {
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
        edit: impl Fn(&mut Bundle) -> Edit + Send,
    ) -> Result<(), RotationError> {
        let trust_domain = &self.settings().trust_domain;
        let journal = journal.to_stored();
        let written = self
            .store
            .journal_put(&self.server_id, &journal, trust_domain, edit)
            .await;
        self.in_doubt = written.is_err();
        self.written = written?.seq;
        Ok(())
    }

    /// Takes a committed journal over, and removes the keys that it no longer names.
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

fn told_active<A: Named>(kind: Kind, slot: &Slot<A>) {
    ::metrics::counter!(ACTIVATIONS, "kind" => kind.label()).increment(1);
    info!(
        authority_id = slot.id(),
        expires = %slot.validity.not_after,
        "{kind} authority active"
    );
}
