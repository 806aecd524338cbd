//! Reconciles the journal, the key manager and the bundle: at start, and after a commit whose outcome is unknown.

use std::collections::HashMap;

use tracing::warn;

use super::publication::Publication;
use super::{Rotation, RotationError};
use crate::authority::journal::{Journal, Jwt, Kind, Slot, X509};
use crate::authority::schedule::Validity;
use crate::keymanager::{KeyName, ManagedKey};

impl Rotation {
    /// Drops slots without their key and keys without a slot, republishes the remaining authorities, and checks the clock.
    pub(super) async fn reconcile(&mut self) -> Result<(), RotationError> {
        let journal = std::mem::take(&mut self.journal);
        self.journal = self.with_keys(journal);
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
        // If the clock is behind `not_before`, peers would refuse everything that the authority signs, and a new authority
        // made now would expire before the old one.
        if let Some(Validity { not_before, .. }) = self.journal.x509.validities().0
            && now < not_before
        {
            return Err(RotationError::ClockBehind { now, not_before });
        }
        self.republish().await?;
        self.authority.publish(&self.journal);
        self.start_signing(Kind::X509)?;
        if self.settings().jwt.is_some() {
            self.start_signing(Kind::Jwt)?;
        }
        Ok(())
    }

    /// After a commit whose outcome is unknown, adopts the journal in the store and removes the keys that it does not name.
    pub(super) async fn settle(&mut self) -> Result<(), RotationError> {
        if !self.in_doubt {
            return Ok(());
        }
        let stored = self.store.journal_get(&self.server_id).await?;
        let journal = stored
            .as_ref()
            .map(Journal::from_stored)
            .unwrap_or_default();
        let journal = self.with_keys(journal);
        self.take(journal).await;
        self.in_doubt = false;
        self.start_signing(Kind::X509)?;
        if self.settings().jwt.is_some() {
            self.start_signing(Kind::Jwt)?;
        }
        Ok(())
    }

    /// Without the slots that can't be used.
    fn with_keys(&self, mut journal: Journal) -> Journal {
        let held = &self.held;
        journal
            .x509
            .retain(|slot| is_usable(slot, x509_fits(slot, held)));
        journal
            .jwt
            .retain(|slot| is_usable(slot, jwt_fits(slot, held)));
        journal
    }

    /// Publishes this server's authorities again if the bundle lacks them, as after the restore of an older bundle.
    async fn republish(&mut self) -> Result<(), RotationError> {
        let publication = self.own_authorities();
        if publication.x509.is_empty() && publication.jwt.is_empty() {
            return Ok(());
        }
        self.write(&self.journal.clone(), publication).await
    }

    /// The authorities that the bundle must have so that what this server signed is accepted. The roots of an authority
    /// that is not self-signed are its upstream's to publish.
    pub(super) fn own_authorities(&self) -> Publication {
        let now = self.clock.now();
        let x509 = self.journal.x509.current(now);
        let x509 = x509.filter(|slot| slot.authority.certificate.is_root());
        Publication {
            x509: x509
                .map(|slot| slot.authority.certificate.with_tainted(slot.tainted))
                .collect(),
            jwt: self.journal.jwt.current(now).map(Slot::published).collect(),
        }
    }

    pub(super) fn usable_x509(&self, slot: &Slot<X509>) -> bool {
        x509_fits(slot, &self.held).is_ok()
    }

    pub(super) fn usable_jwt(&self, slot: &Slot<Jwt>) -> bool {
        jwt_fits(slot, &self.held).is_ok()
    }
}

/// Whether the slot is usable. If not, logs why.
fn is_usable<A>(slot: &Slot<A>, usable: Result<(), &'static str>) -> bool {
    if let Err(reason) = usable {
        warn!(key = %slot.key, expires = %slot.validity.not_after, reason, "Dropping an authority");
    }
    usable.is_ok()
}

fn key_of<'a, A>(
    slot: &Slot<A>,
    held: &'a HashMap<KeyName, ManagedKey>,
) -> Result<&'a ManagedKey, &'static str> {
    held.get(&slot.key)
        .ok_or("the key manager does not have its key")
}

fn x509_fits(slot: &Slot<X509>, held: &HashMap<KeyName, ManagedKey>) -> Result<(), &'static str> {
    let ca = slot.issuing_ca(key_of(slot, held)?);
    ca.map_err(|_| "its certificate and its key do not belong together")
        .map(drop)
}

fn jwt_fits(slot: &Slot<Jwt>, held: &HashMap<KeyName, ManagedKey>) -> Result<(), &'static str> {
    let signer = slot.signer(key_of(slot, held)?);
    signer
        .ok_or("its public key is not that of its key")
        .map(drop)
}
