//! Carrying out what administrators order.

use countersign_identity::Bundle;
use tracing::info;

use super::publication;
use super::{Rotation, RotationError};
use crate::authority::journal::{Journal, Kind, Named, SlotStatus, Slots};
use crate::authority::order::{AuthorityState, Done, Order, OrderError, state_of};

impl Rotation {
    pub(super) async fn carry_out(&mut self, order: Order) -> Result<Done, OrderError> {
        let state = match order {
            Order::Prepare(kind) => self.prepare_now(kind).await?,
            Order::Activate(kind, id) => self.activate_now(kind, &id).await?,
            Order::Taint(kind, id) => self.taint(kind, &id).await?,
            Order::Revoke(kind, id) => self.revoke(kind, &id).await?,
            Order::TaintUpstream(id) => {
                self.check_upstream(&id)?;
                self.mark(Kind::X509, &id, self.journal.clone()).await?;
                named(id)
            }
            Order::RevokeUpstream(id) => {
                self.check_upstream(&id)?;
                self.remove(Kind::X509, &id, self.journal.clone()).await?;
                named(id)
            }
        };
        let seq = self.written;
        Ok(Done { state, seq })
    }

    async fn prepare_now(&mut self, kind: Kind) -> Result<AuthorityState, OrderError> {
        if self.active_id(kind).is_none() {
            return Err(OrderError::Initializing);
        }
        self.prepare(kind).await?;
        let (state, _) = self.other(kind).ok_or(OrderError::Initializing)?;
        Ok(state)
    }

    async fn activate_now(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, OrderError> {
        let (state, status) = self.beside_active(kind, id)?;
        if status != SlotStatus::Prepared {
            return Err(OrderError::Status(status));
        }
        self.activate(kind).await?;
        Ok(state)
    }

    async fn taint(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, OrderError> {
        if kind == Kind::X509 && self.has_upstream() {
            return Err(OrderError::HasUpstream);
        }
        let (state, status) = self.beside_active(kind, id)?;
        if status != SlotStatus::Old {
            return Err(OrderError::Status(status));
        }
        let journal = match kind {
            Kind::X509 => {
                let slots = self.journal.x509.with_other_tainted();
                self.journal.with_x509(slots)
            }
            Kind::Jwt => {
                let slots = self.journal.jwt.with_other_tainted();
                self.journal.with_jwt(slots)
            }
        };
        self.mark(kind, id, journal).await?;
        Ok(state)
    }

    /// The slot goes with its authority: nothing may publish it again.
    async fn revoke(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, OrderError> {
        if kind == Kind::X509 && self.has_upstream() {
            return Err(OrderError::HasUpstream);
        }
        let beside = match self.beside_active(kind, id) {
            Ok((_, SlotStatus::Old)) => true,
            Ok((_, status)) => return Err(OrderError::Status(status)),
            // A JWT key that is in the bundle and in no slot: one of long ago, or of a server that is gone.
            Err(OrderError::Unexpected) if kind == Kind::Jwt => false,
            Err(error) => return Err(error),
        };
        let journal = match (kind, beside) {
            (_, false) => self.journal.clone(),
            (Kind::X509, true) => self.journal.with_x509(self.journal.x509.without_other()),
            (Kind::Jwt, true) => self.journal.with_jwt(self.journal.jwt.without_other()),
        };
        self.remove(kind, id, journal).await?;
        Ok(named(id.to_owned()))
    }

    /// Marks an authority of the bundle as tainted, and writes the journal with it.
    async fn mark(&mut self, kind: Kind, id: &str, journal: Journal) -> Result<(), OrderError> {
        match self.is_tainted(kind, id).await? {
            None => return Err(OrderError::NotInBundle(kind)),
            Some(true) => return Err(OrderError::AlreadyTainted(kind)),
            Some(false) => {}
        }
        let edit = |bundle: &mut Bundle| publication::taint(bundle, kind, id);
        self.commit(&journal, edit).await?;
        self.take(journal).await;
        info!(authority_id = id, "{kind} authority tainted");
        Ok(())
    }

    /// Removes a tainted authority from the bundle, and writes the journal with it.
    async fn remove(&mut self, kind: Kind, id: &str, journal: Journal) -> Result<(), OrderError> {
        match self.is_tainted(kind, id).await? {
            None => return Err(OrderError::NotInBundle(kind)),
            Some(false) => return Err(OrderError::NotTainted(kind)),
            Some(true) => {}
        }
        let edit = |bundle: &mut Bundle| publication::remove(bundle, kind, id);
        self.commit(&journal, edit).await?;
        self.take(journal).await;
        info!(authority_id = id, "{kind} authority revoked");
        Ok(())
    }

    /// Whether an authority of the bundle is tainted; none if the bundle does not have it.
    async fn is_tainted(&self, kind: Kind, id: &str) -> Result<Option<bool>, RotationError> {
        let bundle = self.store.bundle_get(&self.settings().trust_domain).await?;
        Ok(bundle.and_then(|bundle| publication::is_tainted(&bundle, kind, id)))
    }

    /// Whether this server's X.509 authorities are signed by one above it.
    const fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// Whether an upstream authority may be tainted or revoked: it is above the old authority, and not above the active
    /// one.
    fn check_upstream(&self, id: &str) -> Result<(), OrderError> {
        if !self.has_upstream() {
            return Err(OrderError::NoUpstream);
        }
        let slots = &self.journal.x509;
        if id.is_empty() {
            return Err(OrderError::IdMissing);
        }
        if slots
            .active()
            .is_some_and(|s| s.authority.upstream_id() == id)
        {
            return Err(OrderError::IsActive);
        }
        let other = slots.other().filter(|s| s.authority.upstream_id() == id);
        match other.ok_or(OrderError::Unexpected)?.status {
            SlotStatus::Old => Ok(()),
            status => Err(OrderError::Status(status)),
        }
    }

    /// The authority with this ID, which must be the one beside the active one.
    fn beside_active(
        &self,
        kind: Kind,
        id: &str,
    ) -> Result<(AuthorityState, SlotStatus), OrderError> {
        if id.is_empty() {
            return Err(OrderError::IdMissing);
        }
        if self.active_id(kind) == Some(id) {
            return Err(OrderError::IsActive);
        }
        let other = self.other(kind).filter(|(state, _)| state.id == id);
        other.ok_or(OrderError::Unexpected)
    }

    fn active_id(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::X509 => self.journal.x509.active().map(|slot| slot.id()),
            Kind::Jwt => self.journal.jwt.active().map(|slot| slot.id()),
        }
    }

    fn other(&self, kind: Kind) -> Option<(AuthorityState, SlotStatus)> {
        fn of<A: Clone + Named>(slots: &Slots<A>) -> Option<(AuthorityState, SlotStatus)> {
            slots.other().map(|slot| (state_of(slot), slot.status))
        }
        match kind {
            Kind::X509 => of(&self.journal.x509),
            Kind::Jwt => of(&self.journal.jwt),
        }
    }
}

fn named(id: String) -> AuthorityState {
    AuthorityState {
        id,
        expires_at: None,
        upstream_id: String::new(),
    }
}
