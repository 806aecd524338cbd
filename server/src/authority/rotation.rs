//! The life of the authorities: prepared and published, active, old, and at last pruned from the bundle.
//!
//! The order is what makes it safe. A key is durable before the journal names it; the journal and the bundle change in
//! one commit; nothing is signed before that commit holds. A crash between any two steps leaves a key that no slot
//! names, which the next start removes, or a slot that another step continues.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::{InvalidAuthority, X509Authority};
use countersign_identity::issue::{IssueError, IssuingCa, self_signed_authority};
use countersign_identity::{Bundle, UnixTime};
use countersign_runtime::SharedClock;
use countersign_runtime::error::BoxError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::journal::{Journal, Slot, SlotStatus};
use super::schedule::{Step, Validity, next_step};
use super::{Authority, Settings};
use crate::keymanager::{KeyManager, KeyManagerError, KeyName, ManagedKey};
use crate::store::{Edit, Store, StoreError};

/// How often the authorities are looked at; sooner if something is due sooner.
const CHECK: Duration = Duration::from_secs(10);
/// How often expired authorities are looked for in the bundle, at most; sooner for short-lived ones.
const PRUNE_AT_MOST: Duration = Duration::from_secs(6 * 60 * 60);

/// Why an authority was not opened, prepared, activated or pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
}

impl Rotation {
    /// Takes up the authorities where the journal left them and brings them up to date: when this returns, there is an
    /// active authority, and it is in the bundle.
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
        let stored = store.journal_get(&server_id).await?;
        let journal = stored
            .as_ref()
            .map(Journal::from_stored)
            .unwrap_or_default();
        let held = blocking(&keys, |keys| keys.list()).await?;
        let held = held
            .into_iter()
            .map(|key| (key.name().clone(), key))
            .collect();
        let mut this = Self {
            authority: Authority::new(settings, Arc::clone(&clock)),
            keys,
            store,
            server_id,
            prune_at: clock.now(),
            clock,
            journal,
            held,
        };
        this.reconcile().await?;
        this.advance().await?;
        Ok(this)
    }

    /// What signs with the active authority.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.authority.clone()
    }

    /// The authorities as they are written down.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Rotates and prunes when it is time, until `stop`.
    ///
    /// # Errors
    /// Never by itself: a failure is logged and tried again at the next look.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut next = self.clock.now();
        loop {
            let wait = next.since(self.clock.now()).min(CHECK);
            if stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return Ok(());
            }
            next = self.clock.now().after(CHECK);
            match self.advance().await {
                Ok(due) => next = next.min(due),
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "Authority could not be rotated: trying again in {} s",
                    CHECK.as_secs()
                ),
            }
        }
    }

    /// Does all that is due now, and says when the next thing is.
    ///
    /// # Errors
    /// The key manager or the store failed; what was done before that holds, and calling again goes on from there.
    pub async fn advance(&mut self) -> Result<UnixTime, RotationError> {
        loop {
            let of = |slot: Option<&Slot>| slot.map(|slot| slot.validity);
            match next_step(
                of(self.journal.active()),
                of(self.journal.prepared()),
                self.clock.now(),
            ) {
                Step::Prepare => self.prepare().await?,
                Step::Activate => self.activate().await?,
                Step::WaitUntil(due) => {
                    self.prune().await?;
                    return Ok(due);
                }
            }
        }
    }

    /// Makes the key and the certificate of the next authority, and publishes it.
    async fn prepare(&mut self) -> Result<(), RotationError> {
        let key_type = self.settings().ca_key_type;
        let key = blocking(&self.keys, move |keys| keys.generate(key_type)).await?;
        let (slot, authority) = match self.certify(&key).await {
            Ok(made) => made,
            Err(error) => {
                self.forget(key.name()).await;
                return Err(error);
            }
        };
        let journal = self.journal.with_prepared(slot);
        // Should this fail, the key stays: the commit may have gone through all the same, and a key that no slot names is
        // removed at the next start.
        self.write(&journal, std::slice::from_ref(&authority))
            .await?;
        info!(
            authority_id = authority.authority_id(),
            expires = %authority.not_after(),
            "Authority prepared and published"
        );
        self.held.insert(key.name().clone(), key);
        self.take(journal).await;
        Ok(())
    }

    /// Makes the prepared authority the one that signs.
    async fn activate(&mut self) -> Result<(), RotationError> {
        let journal = self.journal.with_activated();
        let ca = self
            .issuing_ca(&journal)?
            .ok_or(RotationError::KeyMissing)?;
        self.write(&journal, &[]).await?;
        self.take(journal).await;
        self.start_signing(ca);
        Ok(())
    }

    fn start_signing(&self, ca: IssuingCa) {
        info!(
            authority_id = ca.authority().authority_id(),
            expires = %ca.authority().not_after(),
            "Authority active"
        );
        self.authority.activate(ca);
    }

    /// Brings journal and key manager together after a start: a slot needs its key, a key its slot.
    async fn reconcile(&mut self) -> Result<(), RotationError> {
        let held = &self.held;
        self.journal.slots.retain(|slot| {
            let usable = usable(slot, held);
            if let Err(reason) = usable {
                warn!(key = %slot.key, expires = %slot.validity.not_after, reason, "Dropping an authority");
            }
            usable.is_ok()
        });
        let stray: Vec<_> = self
            .held
            .keys()
            .filter(|name| !self.journal.names(name))
            .cloned()
            .collect();
        for name in stray {
            warn!(key = %name, "Removing a key that belongs to no authority");
            self.forget(&name).await;
        }
        let now = self.clock.now();
        if let Some(Validity { not_before, .. }) = self.journal.active().map(|slot| slot.validity)
            && now < not_before
        {
            return Err(RotationError::ClockBehind { now, not_before });
        }
        self.republish().await?;
        if let Some(ca) = self.issuing_ca(&self.journal)? {
            self.start_signing(ca);
        }
        Ok(())
    }

    /// Puts this server's authorities into the bundle again, should they not be there (another bundle was restored).
    async fn republish(&self) -> Result<(), RotationError> {
        if self.journal.slots.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let current = self
            .journal
            .slots
            .iter()
            .filter(|slot| !slot.validity.is_over(now));
        let authorities = current.map(|slot| X509Authority::new(slot.certificate.clone()));
        let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
        self.write(&self.journal, &authorities).await
    }

    /// Drops authorities from the bundle that expired long ago.
    async fn prune(&mut self) -> Result<(), RotationError> {
        let now = self.clock.now();
        if now < self.prune_at {
            return Ok(());
        }
        let trust_domain = &self.settings().trust_domain;
        let is_due = move |authority: &X509Authority| validity_of(authority).prune_at() <= now;
        let bundle = self.store.bundle_get(trust_domain).await?;
        let due = bundle.map_or(0, |bundle| {
            bundle.x509_authorities.iter().filter(|a| is_due(a)).count()
        });
        if due > 0 {
            let journal = self.journal.to_stored();
            let edit = |bundle: &mut Bundle| prune(bundle, is_due);
            self.store
                .journal_put(&self.server_id, &journal, trust_domain, edit)
                .await?;
            info!(
                authorities = due,
                "Expired authorities removed from the bundle"
            );
        }
        self.prune_at = now.after(self.settings().ca_ttl.min(PRUNE_AT_MOST));
        Ok(())
    }

    /// Writes the journal, and publishes the authorities that the bundle lacks, in one commit.
    async fn write(
        &self,
        journal: &Journal,
        publish: &[X509Authority],
    ) -> Result<(), RotationError> {
        let trust_domain = &self.settings().trust_domain;
        let edit = |bundle: &mut Bundle| append(bundle, publish);
        self.store
            .journal_put(&self.server_id, &journal.to_stored(), trust_domain, edit)
            .await?;
        Ok(())
    }

    /// Takes a committed journal over, and removes the keys that it no longer names.
    async fn take(&mut self, journal: Journal) {
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

    /// Removes a key that nothing needs. That it stays is no harm: the next start removes it.
    async fn forget(&mut self, name: &KeyName) {
        self.held.remove(name);
        let remove = name.clone();
        if let Err(error) = blocking(&self.keys, move |keys| keys.remove(&remove)).await {
            warn!(key = %name, error = &error as &dyn std::error::Error, "Key was not removed");
        }
    }

    async fn certify(&self, key: &ManagedKey) -> Result<(Slot, X509Authority), RotationError> {
        let Settings {
            trust_domain,
            ca_subject,
            ca_ttl,
            ..
        } = self.settings().clone();
        let now = self.clock.now();
        let name = key.name().clone();
        let key = key.clone();
        let signed = blocking_job(move || {
            self_signed_authority(&trust_domain, &ca_subject, &key, ca_ttl, now)
        })
        .await?;
        let authority = X509Authority::new(signed?)?;
        let slot = Slot {
            status: SlotStatus::Prepared,
            key: name,
            certificate: authority.der().clone(),
            validity: validity_of(&authority),
        };
        Ok((slot, authority))
    }

    fn issuing_ca(&self, journal: &Journal) -> Result<Option<IssuingCa>, RotationError> {
        let active = journal
            .active()
            .and_then(|slot| Some((slot, self.held.get(&slot.key)?)));
        let ca = active
            .map(|(slot, key)| IssuingCa::new(slot.certificate.clone(), Vec::new(), key.signer()));
        Ok(ca.transpose()?)
    }

    fn settings(&self) -> &Settings {
        self.authority.settings()
    }
}

fn append(bundle: &mut Bundle, authorities: &[X509Authority]) -> Edit {
    let mut edit = Edit::Unchanged;
    for authority in authorities {
        if !bundle
            .x509_authorities
            .iter()
            .any(|present| present.der() == authority.der())
        {
            bundle.x509_authorities.push(authority.clone());
            edit = Edit::Changed;
        }
    }
    edit
}

/// Drops what is due, but never the last authority: peers take an empty bundle for a withdrawn one.
fn prune(bundle: &mut Bundle, is_due: impl Fn(&X509Authority) -> bool) -> Edit {
    let kept: Vec<_> = bundle
        .x509_authorities
        .iter()
        .filter(|a| !is_due(a))
        .cloned()
        .collect();
    if kept.is_empty() || kept.len() == bundle.x509_authorities.len() {
        return Edit::Unchanged;
    }
    bundle.x509_authorities = kept;
    Edit::Changed
}

fn validity_of(authority: &X509Authority) -> Validity {
    Validity {
        not_before: authority.not_before(),
        not_after: authority.not_after(),
    }
}

fn usable(slot: &Slot, held: &HashMap<KeyName, ManagedKey>) -> Result<(), &'static str> {
    let key = held
        .get(&slot.key)
        .ok_or("the key manager does not have its key")?;
    let ca = IssuingCa::new(slot.certificate.clone(), Vec::new(), key.signer());
    ca.map_err(|_| "its certificate and its key do not belong together")
        .map(drop)
}

async fn blocking<T: Send + 'static>(
    keys: &Arc<dyn KeyManager>,
    call: impl FnOnce(&dyn KeyManager) -> Result<T, KeyManagerError> + Send + 'static,
) -> Result<T, RotationError> {
    let keys = Arc::clone(keys);
    Ok(blocking_job(move || call(&*keys)).await??)
}

async fn blocking_job<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RotationError> {
    tokio::task::spawn_blocking(job)
        .await
        .map_err(|error| RotationError::Job(error.into()))
}
