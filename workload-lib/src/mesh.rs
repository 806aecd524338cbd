//! The handle on the mesh: this process's identity, policy and counters.

use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_mesh::{Engine, Moment, Policy};
use countersign_transport::SharedClock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::policy::InForce;
use crate::source::{Generation, Identity, Reader};

/// A workload's place in the mesh. Cheap to clone; clones share identity, policy and all counters, and the last one
/// ends the tasks behind them.
///
/// [`Mesh::join`] makes one. [`Mesh::serve`] and [`Mesh::inbound_layer`] let others call this workload,
/// [`Mesh::callee`] calls them, and [`Chain::start`](crate::Chain::start) begins a piece of work of its own.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Reader,
    policy: watch::Receiver<InForce>,
    clock: SharedClock,
    started: Instant,
    _stop: DropGuard,
}

/// There is no identity to act with at the moment.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this workload has no identity at the moment: {0}")]
pub struct NoIdentity(Arc<str>);

impl Mesh {
    /// The parts put together; `stop` ends the tasks that keep them up to date.
    pub(crate) fn new(
        source: Reader,
        policy: watch::Receiver<InForce>,
        clock: SharedClock,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            source,
            policy,
            clock,
            started: Instant::now(),
            _stop: stop.drop_guard(),
        }))
    }

    /// This workload's SPIFFE ID.
    ///
    /// # Errors
    /// If the node agent has withdrawn the identity, or it has expired.
    pub fn id(&self) -> Result<SpiffeId, NoIdentity> {
        Ok(self.generation()?.svid().id().clone())
    }

    /// Until when the present SVID is valid.
    ///
    /// # Errors
    /// As [`Mesh::id`].
    pub fn not_after(&self) -> Result<UnixTime, NoIdentity> {
        Ok(self.generation()?.svid().not_after())
    }

    /// The serial number of the present SVID, decimal, as others find it in their logs.
    ///
    /// # Errors
    /// As [`Mesh::id`].
    pub fn serial(&self) -> Result<String, NoIdentity> {
        Ok(self.generation()?.svid().leaf().serial.clone())
    }

    /// Waits until the SVID in use is another one than now, and says which serial number it has (decimal). Returns
    /// `None` when this process will never get another one.
    pub async fn rotated(&self) -> Option<String> {
        let mut identity = self.0.source.identity.clone();
        let before = identity.borrow_and_update().live().cloned();
        let is_another = |now: &Generation| {
            before
                .as_ref()
                .is_none_or(|before| before.svid().chain() != now.svid().chain())
        };
        let found = identity
            .wait_for(|now| now.live().is_some_and(|now| is_another(now)))
            .await
            .ok()?;
        found
            .live()
            .map(|generation| generation.svid().leaf().serial.clone())
    }

    /// The generation to act with.
    pub(crate) fn generation(&self) -> Result<Arc<Generation>, NoIdentity> {
        let generation = match &*self.0.source.identity.borrow() {
            Identity::Live(generation) => Arc::clone(generation),
            Identity::Waiting(why) | Identity::Unusable(why) | Identity::Withdrawn(why) => {
                return Err(NoIdentity(Arc::clone(why)));
            }
        };
        let not_after = generation.svid().not_after();
        if self.0.clock.now() > not_after {
            let why =
                format!("its SVID expired at {not_after} and the node agent has not sent another");
            return Err(NoIdentity(why.into()));
        }
        Ok(generation)
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        let policy = self.0.policy.borrow().policy.clone();
        policy.unwrap_or_else(|| Arc::new(Policy::deny_all()))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.source.engine
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    pub(crate) fn source(&self) -> &Reader {
        &self.0.source
    }

    /// Now, on both clocks.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            wall: self.0.clock.now(),
            mono: self.0.started.elapsed(),
        }
    }

    /// When the wall clock will show this time, on tokio's clock.
    pub(crate) fn instant_of(&self, time: UnixTime) -> Instant {
        Instant::now() + time.since(self.0.clock.now())
    }
}
