//! Rotating by hand: what administrators command, and what they get back.
//!
//! Commands go to the one writer of the authorities, [`super::Rotation`], which takes them between the steps that are due
//! by the clock. A command that was taken is carried out even if the caller is gone by then.

use countersign_identity::UnixTime;
use countersign_store::Pending;
use tokio::sync::{mpsc, oneshot};

use super::Authority;
use super::error::RotationError;
use super::journal::{Kind, Named, Slot, SlotStatus, Slots};

/// The most commands that wait.
pub(super) const MAX_QUEUED: usize = 16;

/// What to do with an authority. IDs are those of [`AuthorityState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityCommand {
    /// Make the next authority of a kind and publish it, in place of what is beside the active one.
    Prepare(Kind),
    /// Let the prepared authority sign.
    Activate(Kind, String),
    /// Mark the old authority as tainted: everything that it signed is renewed.
    Taint(Kind, String),
    /// Remove a tainted authority from the bundle.
    Revoke(Kind, String),
    /// Mark the old authority's upstream as tainted: everything that leads to it is renewed.
    TaintUpstream(String),
    /// Remove the old authority's tainted upstream from the bundle.
    RevokeUpstream(String),
}

/// One authority as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityState {
    /// Its ID: a subject key identifier in lower-case hex, or a JWT key's ID.
    pub id: String,
    /// When it expires; none where that is not known.
    pub expires_at: Option<UnixTime>,
    /// The subject key identifier of its upstream authority; empty if there is none.
    pub upstream_id: String,
}

/// The authorities of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    /// The one that signs.
    pub active: AuthorityState,
    /// The next one, if it is published.
    pub prepared: Option<AuthorityState>,
    /// The one before, if it is still known.
    pub old: Option<AuthorityState>,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no active authority.
    #[error("server is initializing")]
    Initializing,
    /// No authority was named.
    #[error("no authority ID provided")]
    IdMissing,
    /// The active authority was named.
    #[error("the authority is the active one")]
    IsActive,
    /// An authority was named that is not beside the active one.
    #[error("unexpected authority ID")]
    Unexpected,
    /// The authority is in a state in which this can't be done with it.
    #[error("unsupported local authority status: {}", status_name(*.0))]
    Status(SlotStatus),
    /// There is an upstream authority, so that tainting this one alone would do nothing.
    #[error("there is an upstream authority")]
    HasUpstream,
    /// There is no upstream authority.
    #[error("upstream authority is not configured")]
    NoUpstream,
    /// The bundle does not have the authority.
    #[error("{}", match .0 { Kind::X509 => "no root CA found with provided subject key ID", Kind::Jwt => "no JWT Key found with provided key ID" })]
    NotInBundle(Kind),
    /// It is tainted already.
    #[error("{} is already tainted", match .0 { Kind::X509 => "root CA", Kind::Jwt => "key" })]
    AlreadyTainted(Kind),
    /// It must be tainted first.
    #[error("it is not possible to revoke an untainted {}", match .0 { Kind::X509 => "root CA", Kind::Jwt => "key" })]
    NotTainted(Kind),
    /// The key manager or the store failed.
    #[error(transparent)]
    Failed(#[from] RotationError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// SPIRE's names, which its tools print.
const fn status_name(status: SlotStatus) -> &'static str {
    match status {
        SlotStatus::Prepared => "PREPARED",
        SlotStatus::Active => "ACTIVE",
        SlotStatus::Old => "OLD",
    }
}

/// A command on its way to the writer.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) command: AuthorityCommand,
    pub(super) reply: oneshot::Sender<Result<Pending<AuthorityState>, CommandError>>,
}

/// Where commands arrive.
pub(super) type Inbox = mpsc::Receiver<Envelope>;

impl Authority {
    /// The authorities of a kind, as they were last committed; none if none is active.
    #[must_use]
    pub fn states(&self, kind: Kind) -> Option<States> {
        let journal = self.0.journal.load();
        match kind {
            Kind::X509 => states(&journal.x509),
            Kind::Jwt => states(&journal.jwt),
        }
    }

    /// Has a command carried out, and returns the authority that it was about.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing changed, unless the store failed.
    pub async fn command(
        &self,
        command: AuthorityCommand,
    ) -> Result<Pending<AuthorityState>, CommandError> {
        let (reply, outcome) = oneshot::channel();
        let envelope = Envelope { command, reply };
        let sent = self.0.commands.send(envelope).await;
        sent.map_err(|_| CommandError::Stopping)?;
        outcome.await.map_err(|_| CommandError::Stopping)?
    }
}

fn states<A: Clone + Named>(slots: &Slots<A>) -> Option<States> {
    let other = |status| slots.other().filter(|s| s.status == status).map(state_of);
    Some(States {
        active: state_of(slots.active()?),
        prepared: other(SlotStatus::Prepared),
        old: other(SlotStatus::Old),
    })
}

pub(super) fn state_of<A: Named>(slot: &Slot<A>) -> AuthorityState {
    AuthorityState {
        id: slot.id().to_owned(),
        expires_at: Some(slot.validity.not_after),
        upstream_id: slot.authority.upstream_id().to_owned(),
    }
}
