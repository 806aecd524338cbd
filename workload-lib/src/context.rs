//! What a handler holds of the chain that led to it, and how work of its own keeps to that chain.

use std::num::NonZeroU16;
use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_mesh::outbound;
use countersign_mesh::{ChainId, Grant};
use http::Extensions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::current::Current;
use crate::mesh::Mesh;
use crate::outbound::CallError;

/// This workload's part in a piece of work: the verified chain that led here, and what may still be spent.
///
/// The inbound layer puts it into the extensions of the request and into a task-local that covers the handler and the
/// body of its answer; calls made there continue the chain by themselves. Work that leaves the task takes the context
/// along by [`Context::scope`] or [`Context::spawn`]. All clones share one ledger.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    chain: countersign_mesh::Context,
    caller: Option<SpiffeId>,
    /// Cancelled when what the context belongs to is over.
    over: CancellationToken,
    /// When it is over by itself.
    deadline: Instant,
}

impl Context {
    pub(crate) fn new(
        chain: countersign_mesh::Context,
        caller: Option<SpiffeId>,
        over: CancellationToken,
        deadline: Instant,
    ) -> Self {
        Self(Arc::new(Inner {
            chain,
            caller,
            over,
            deadline,
        }))
    }

    /// The context of the running task: within a handler, the body of its answer, or a scope.
    #[must_use]
    pub fn current() -> Option<Self> {
        match Current::get() {
            Some(Current::In(context)) => Some(context),
            Some(Current::Barred) | None => None,
        }
    }

    /// The context of a request, from its extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }

    /// Who started the piece of work.
    #[must_use]
    pub fn originator(&self) -> &SpiffeId {
        self.0.chain.originator()
    }

    /// Who called this workload; `None` where it started the piece of work itself.
    #[must_use]
    pub fn caller(&self) -> Option<&SpiffeId> {
        self.0.caller.as_ref()
    }

    /// How many calls led here; 0 at the originator.
    #[must_use]
    pub fn hop(&self) -> u8 {
        self.0.chain.hop()
    }

    /// How many calls the chain may have at most.
    #[must_use]
    pub fn max_hops(&self) -> u8 {
        self.0.chain.max_hops()
    }

    /// The ID of the piece of work, as 32 hex digits when displayed. Unique only together with the originator.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.0.chain.chain_id()
    }

    /// Everyone in the chain: the originator first, this workload last.
    pub fn members(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.chain.members()
    }

    /// How many calls this workload and all below it may still make for this piece of work.
    #[must_use]
    pub fn remaining(&self) -> u16 {
        self.0.chain.rest()
    }

    /// When the piece of work has to be done; nothing may be called from this second on.
    #[must_use]
    pub fn deadline(&self) -> UnixTime {
        self.0.chain.deadline()
    }

    /// What each of `calls` equal calls can grant its callee, out of what remains; each pays for itself first. Hand it
    /// to [`CalleeClient::grant`](crate::CalleeClient::grant).
    #[must_use]
    pub fn split(&self, calls: NonZeroU16) -> u16 {
        match self.0.chain.split(calls) {
            Grant::Exactly(calls) => calls,
            Grant::ByRule => 0,
        }
    }

    /// Runs `future` with this context in place, wherever it is polled. It may outlive the request, but not the chain.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        Current::In(self.clone()).scope(future)
    }

    /// Starts a task with this context in place that is dropped when the call it belongs to is over: when the answer is
    /// complete, the request is cancelled or reset, or the deadline has passed. It then gives `None`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (over, deadline) = (self.0.over.clone(), self.0.deadline);
        let future = self.scope(future);
        tokio::spawn(async move {
            tokio::time::timeout_at(deadline, over.run_until_cancelled_owned(future))
                .await
                .ok()
                .flatten()
        })
    }

    pub(crate) fn chain(&self) -> &countersign_mesh::Context {
        &self.0.chain
    }
}

/// A piece of work that this workload starts: all calls in its scope share chain ID, deadline and budget, and count as
/// one new chain.
///
/// Only a workload with an `originate` rule may start one. A workload that serves a call continues that call's chain
/// instead: it needs none of its own.
#[derive(Clone, Debug)]
pub struct Chain(Context);

impl Chain {
    /// Starts a piece of work.
    ///
    /// # Errors
    /// [`CallError::Refused`] with `origination_denied` without the right to start chains, or where the running task
    /// serves a call that came without a chain; [`CallError::NoIdentity`] without an identity.
    pub fn start(mesh: &Mesh) -> Result<Self, CallError> {
        if let Some(Current::Barred) = Current::get() {
            return Err(CallError::barred());
        }
        let generation = mesh.generation()?;
        let chain = outbound::start(&mesh.policy(), generation.signer(), mesh.moment())
            .map_err(|error| CallError::not_sent(&error))?;
        let deadline = mesh.instant_of(chain.deadline());
        Ok(Self(Context::new(
            chain,
            None,
            CancellationToken::new(),
            deadline,
        )))
    }

    /// The context of the piece of work.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.0
    }

    /// Runs `future` as part of the piece of work.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.0.scope(future)
    }
}
