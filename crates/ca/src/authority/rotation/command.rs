//! Carrying out administrators' commands: the LocalAuthority service (wire contract, A.13).

use countersign_identity::Bundle;
use countersign_store::Pending;
use tracing::info;

use super::publication;
use super::{Rotation, RotationError};
use crate::authority::command::{AuthorityCommand, AuthorityState, CommandError, state_of};
use crate::authority::journal::{Journal, Kind, Named, SlotStatus, Slots};

impl Rotation {
    pub(super) async fn carry_out(
        &mut self,
        command: AuthorityCommand,
    ) -> Result<Pending<AuthorityState>, CommandError> {
        let state = match command {
            AuthorityCommand::Prepare(kind) => self.prepare_now(kind).await?,
            AuthorityCommand::Activate(kind, id) => self.activate_now(kind, &id).await?,
            AuthorityCommand::Taint(kind, id) => self.taint(kind, &id).await?,
            AuthorityCommand::Revoke(kind, id) => self.revoke(kind, &id).await?,
            AuthorityCommand::TaintUpstream(id) => {
                self.check_upstream(&id)?;
                self.mark(Kind::X509, &id, self.journal.clone()).await?;
                named(id)
            }
            AuthorityCommand::RevokeUpstream(id) => {
                self.check_upstream(&id)?;
                self.remove(Kind::X509, &id, self.journal.clone()).await?;
                named(id)
            }
        };
        Ok(Pending::new(state, self.last_commit))
    }

    async fn prepare_now(&mut self, kind: Kind) -> Result<AuthorityState, CommandError> {
        if self.active_id(kind).is_none() {
            return Err(CommandError::Initializing);
        }
        self.prepare(kind).await?;
        let (state, _) = self.other(kind).ok_or(CommandError::Initializing)?;
        Ok(state)
    }

    async fn activate_now(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, CommandError> {
        let (state, status) = self.beside_active(kind, id)?;
        if status != SlotStatus::Prepared {
            return Err(CommandError::Status(status));
        }
        self.activate(kind).await?;
        Ok(state)
    }

    async fn taint(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, CommandError> {
        if kind == Kind::X509 && self.has_upstream() {
            return Err(CommandError::HasUpstream);
        }
        let (state, status) = self.beside_active(kind, id)?;
        if status != SlotStatus::Old {
            return Err(CommandError::Status(status));
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

    /// Removes the slot with its authority: nothing may publish it again.
    async fn revoke(&mut self, kind: Kind, id: &str) -> Result<AuthorityState, CommandError> {
        if kind == Kind::X509 && self.has_upstream() {
            return Err(CommandError::HasUpstream);
        }
        let beside = match self.beside_active(kind, id) {
            Ok((_, SlotStatus::Old)) => true,
            Ok((_, status)) => return Err(CommandError::Status(status)),
            // A JWT key may be in the bundle and in no slot: an older one, or that of a server that is gone.
            Err(CommandError::Unexpected) if kind == Kind::Jwt => false,
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
    async fn mark(&mut self, kind: Kind, id: &str, journal: Journal) -> Result<(), CommandError> {
        match self.is_tainted(kind, id).await? {
            None => return Err(CommandError::NotInBundle(kind)),
            Some(true) => return Err(CommandError::AlreadyTainted(kind)),
            Some(false) => {}
        }
        let edit = |bundle: &mut Bundle| publication::taint(bundle, kind, id);
        self.commit(&journal, edit).await?;
        self.take(journal).await;
        info!(authority_id = id, "{kind} authority tainted");
        Ok(())
    }

    /// Removes a tainted authority from the bundle, and writes the journal with it.
    async fn remove(&mut self, kind: Kind, id: &str, journal: Journal) -> Result<(), CommandError> {
        match self.is_tainted(kind, id).await? {
            None => return Err(CommandError::NotInBundle(kind)),
            Some(false) => return Err(CommandError::NotTainted(kind)),
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

    /// Whether this server's X.509 authorities are signed by an upstream authority.
    const fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// An upstream authority may be tainted or revoked if it signed the old authority and did not sign the active one.
    fn check_upstream(&self, id: &str) -> Result<(), CommandError> {
        if !self.has_upstream() {
            return Err(CommandError::NoUpstream);
        }
        let slots = &self.journal.x509;
        if id.is_empty() {
            return Err(CommandError::IdMissing);
        }
        if slots
            .active()
            .is_some_and(|s| s.authority.upstream_id() == id)
        {
            return Err(CommandError::IsActive);
        }
        let other = slots.other().filter(|s| s.authority.upstream_id() == id);
        match other.ok_or(CommandError::Unexpected)?.status {
            SlotStatus::Old => Ok(()),
            status => Err(CommandError::Status(status)),
        }
    }

    /// The authority with this ID, which must be the one beside the active one.
    fn beside_active(
        &self,
        kind: Kind,
        id: &str,
    ) -> Result<(AuthorityState, SlotStatus), CommandError> {
        if id.is_empty() {
            return Err(CommandError::IdMissing);
        }
        if self.active_id(kind) == Some(id) {
            return Err(CommandError::IsActive);
        }
        let other = self.other(kind).filter(|(state, _)| state.id == id);
        other.ok_or(CommandError::Unexpected)
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
