//! What a handler holds of the chain that led to it, and how work of its own keeps to that chain.

use std::num::NonZeroU16;
use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_mesh::outbound;
use countersign_mesh::{ChainId, Grant, OutboundError, Reason, Refusal};
use http::Extensions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{CallError, Refused, RefusedBy};
use crate::event::Event;
use crate::mesh::Mesh;

/// This workload's part in a piece of work: the verified chain that led here, and what may still be spent.
///
/// The inbound layer puts it into the extensions of the request and into a task-local that covers the handler and the
/// body of its answer; calls made there continue the chain by themselves. Work that leaves the task takes the context
/// along by [`Context::scope`] or [`Context::spawn`]. All clones share one ledger.
///
/// With feature `axum` it is an extractor. A handler that also serves calls without a chain, where policy allows these,
/// takes `Option<Context>`.
///
/// # Examples
/// ```
/// use countersign::Context;
///
/// async fn handler() -> String {
///     match Context::current() {
///         Some(context) => format!(
///             "asked by {} for {}, {} calls left",
///             context.caller().map_or("itself", |id| id.as_str()),
///             context.originator(),
///             context.remaining(),
///         ),
///         None => "a call without a chain".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Context(Arc<ContextState>);

#[derive(Debug)]
struct ContextState {
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
        Self(Arc::new(ContextState {
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
            Some(Current::NoOrigination) | None => None,
        }
    }

    /// The context of a request, from its extensions: `Context::from_extensions(request.extensions())`, for HTTP and
    /// tonic requests alike.
    #[must_use]
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
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

    /// How many calls this workload and all downstream of it may still make for this piece of work.
    #[must_use]
    pub fn remaining(&self) -> u16 {
        self.0.chain.remaining()
    }

    /// When the piece of work has to be done; nothing may be called from this second on.
    #[must_use]
    pub fn deadline(&self) -> UnixTime {
        self.0.chain.deadline()
    }

    /// What each of `calls` equal calls can grant its callee, out of what remains; each pays for itself first. Hand it
    /// to [`CalleeClient::grant`](crate::CalleeClient::grant).
    ///
    /// # Examples
    /// ```
    /// # use countersign::{CalleeClient, Context};
    /// # use std::num::NonZeroU16;
    /// # fn example(context: &Context, reviewer: &CalleeClient, files: NonZeroU16) {
    /// // One review for each file, all with the same part of the budget.
    /// let reviewer = reviewer.grant(context.split(files));
    /// # }
    /// ```
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
    /// complete, the request is cancelled or reset, or the deadline has passed. It then returns `None`.
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

/// What code that runs for a call has to go by: the task-local that covers a handler and the body of its answer.
#[derive(Clone, Debug)]
pub(crate) enum Current {
    /// It acts within a verified chain, or within one that it started.
    In(Context),
    /// It serves a call that came without a chain: it has no context and must not start a chain of its own.
    NoOrigination,
}

tokio::task_local! {
    static CURRENT: Current;
}

impl Current {
    /// What the running task has, if anything.
    pub(crate) fn get() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `future` with this in place.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs `body` with this in place.
    pub(crate) fn sync_scope<R>(&self, body: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), body)
    }
}

/// A piece of work that this workload starts: all calls in its scope share chain ID, deadline and budget, and count as
/// one new chain.
///
/// Only a workload with an `originate` rule may start one. A workload that serves a call continues that call's chain
/// instead: it needs none of its own.
///
/// # Examples
/// ```
/// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use countersign::Chain;
/// use http::Request;
///
/// let coder = mesh.client("spiffe://example.org/coder")?.at("https://10.0.0.7:8443")?.http();
/// let work = Chain::start(&mesh)?;
/// work.scope(async {
///     coder.send(Request::post("/tasks").body("write it")?).await?;
///     coder.send(Request::post("/tasks").body("test it")?).await?;
///     Ok::<_, Box<dyn std::error::Error>>(())
/// })
/// .await?;
/// println!("{} calls left", work.context().remaining());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Chain(Context);

impl Chain {
    /// Starts a piece of work.
    ///
    /// # Errors
    /// [`CallError::Refused`] with `origination_denied` without the right to start chains, or where the running task
    /// serves a call that came without a chain; [`CallError::NoIdentity`] without an identity.
    pub fn start(mesh: &Mesh) -> Result<Self, CallError> {
        // docs/call-chains.md, section 8: a handler without a chain may not start one in the caller's place.
        if let Some(Current::NoOrigination) = Current::get() {
            let detail = "a handler of a call that came without a chain may not start one";
            let refusal = Refusal::new(Reason::OriginationDenied, detail);
            return Err(refused_here(mesh, None, &refusal));
        }
        let generation = mesh.generation()?;
        let chain = outbound::start(&mesh.policy(), generation.signer(), mesh.now())
            .map_err(|error| outbound_error(mesh, None, error))?;
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

/// The error of a call that was not sent, told to the log and the events.
pub(crate) fn outbound_error(
    mesh: &Mesh,
    callee: Option<&SpiffeId>,
    error: OutboundError,
) -> CallError {
    match error {
        OutboundError::Refused(refusal) => refused_here(mesh, callee, &refusal),
        fault => CallError::Signing(fault.into()),
    }
}

/// A refusal by this process, told to the log and the events.
pub(crate) fn refused_here(mesh: &Mesh, callee: Option<&SpiffeId>, refusal: &Refusal) -> CallError {
    tracing::info!(reason = %refusal.reason(), detail = refusal.detail(), "Call refused before it was sent");
    mesh.event_log().write(Event::OwnCallRefused {
        callee: callee.cloned(),
        reason: refusal.reason(),
        detail: refusal.detail().to_owned(),
    });
    let by = RefusedBy::ThisWorkload;
    Refused::new(refusal.reason(), by, refusal.retry_after()).into()
}
