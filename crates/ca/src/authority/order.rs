//! Rotating by hand: what administrators order, and what they are told.
//!
//! Orders go to the one owner of the authorities, [`super::Rotation`], and are carried out between the steps that are due
//! by the clock. An order that was taken is carried out even if whoever gave it is gone.

use countersign_identity::UnixTime;
use countersign_store::backend::Seq;
use tokio::sync::{mpsc, oneshot};

use super::Authority;
use super::journal::{Kind, Named, Slot, SlotStatus, Slots};
use super::rotation::RotationError;

/// How many orders may wait.
pub(super) const QUEUE: usize = 16;

/// What to do with an authority. IDs are those of [`AuthorityState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Make the next authority of a kind and publish it, in place of what is beside the active one.
    Prepare(Kind),
    /// Let the prepared authority sign.
    Activate(Kind, String),
    /// Have all renewed that the old authority signed.
    Taint(Kind, String),
    /// Take a tainted authority out of the bundle.
    Revoke(Kind, String),
    /// Have all renewed that leads to this authority above the old one.
    TaintUpstream(String),
    /// Take this tainted authority above the old one out of the bundle.
    RevokeUpstream(String),
}

/// One authority as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityState {
    /// Its ID: a subject key identifier in lower-case hex, or a JWT key's ID.
    pub id: String,
    /// When it expires; none where that is not known.
    pub expires_at: Option<UnixTime>,
    /// The subject key identifier of the authority above; empty if there is none.
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

/// What an order led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The authority that it was about.
    pub state: AuthorityState,
    /// The commit with which it took effect.
    pub seq: Seq,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
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
    /// There is an authority above, so that tainting this one alone would do nothing.
    #[error("there is an upstream authority")]
    HasUpstream,
    /// There is no authority above.
    #[error("upstream authority is not configured")]
    NoUpstream,
    /// The bundle does not have the authority.
    #[error("{}", match .0 { Kind::X509 => "no root CA found with provided subject key ID", Kind::Jwt => "no JWT Key found with provided key ID" })]
    NotInBundle(Kind),
    /// It is tainted already.
    #[error("{} is already tainted", match .0 { Kind::X509 => "root CA", Kind::Jwt => "key" })]
    AlreadyTainted(Kind),
    /// It is to be tainted first.
    #[error("it is not possible to revoke an untainted {}", match .0 { Kind::X509 => "root CA", Kind::Jwt => "key" })]
    NotTainted(Kind),
    /// The key manager or the store failed.
    #[error(transparent)]
    Failed(#[from] RotationError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

const fn status_name(status: SlotStatus) -> &'static str {
    match status {
        SlotStatus::Prepared => "PREPARED",
        SlotStatus::Active => "ACTIVE",
        SlotStatus::Old => "OLD",
    }
}

/// An order on its way.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<Done, OrderError>>,
}

/// Where orders arrive.
pub(super) type Letters = mpsc::Receiver<Letter>;

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

    /// Has an order carried out, and says when it took effect.
    ///
    /// # Errors
    /// [`OrderError`]; then nothing changed, unless the store failed.
    pub async fn order(&self, order: Order) -> Result<Done, OrderError> {
        let (answer, done) = oneshot::channel();
        let letter = Letter { order, answer };
        let sent = self.0.orders.send(letter).await;
        sent.map_err(|_| OrderError::Stopping)?;
        done.await.map_err(|_| OrderError::Stopping)?
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
