//! The handle on the mesh: this process's identity, policy and counters.

use std::sync::Arc;

use countersign_identity::UnixTime;
use countersign_mesh::{Engine, Now, Policy};
use countersign_transport::SharedClock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::NoIdentity;
use crate::event::{EventLog, Events};
use crate::policy::InForce;
use crate::source::{Generation, Identity, Reader};
use crate::svid::Svid;

/// A workload's place in the mesh. Cheap to clone; clones share identity, policy and all counters, and the last one
/// ends the tasks behind them.
///
/// [`Mesh::join`] makes one. [`Mesh::serve`] and [`Mesh::inbound_layer`] let others call this workload,
/// [`Mesh::client`] calls them, and [`Chain::start`](crate::Chain::start) begins a piece of work of its own.
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::get};
/// use countersign::Mesh;
///
/// let mesh = Mesh::join().await?;
/// let router = Router::new().route("/status", get(async || "ready"));
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
/// mesh.serve(listener, router).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Mesh(Arc<MeshState>);

#[derive(Debug)]
struct MeshState {
    source: Reader,
    policy: watch::Receiver<InForce>,
    clock: SharedClock,
    events: EventLog,
    started: Instant,
    _stop: DropGuard,
}

impl Mesh {
    /// The parts put together; `stop` ends the tasks that keep them up to date.
    pub(crate) fn new(
        source: Reader,
        policy: watch::Receiver<InForce>,
        clock: SharedClock,
        events: EventLog,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(MeshState {
            source,
            policy,
            clock,
            events,
            started: Instant::now(),
            _stop: stop.drop_guard(),
        }))
    }

    /// The SVID in use: ID, serial number, end and certificates, all of one moment.
    ///
    /// # Errors
    /// [`NoIdentity`] if the node agent has withdrawn the identity, or it has expired.
    pub fn svid(&self) -> Result<Arc<Svid>, NoIdentity> {
        Ok(Arc::clone(self.generation()?.shown()))
    }

    /// Waits until another SVID is in use than when this was called, and returns it; `None` when this process will
    /// never get another one.
    ///
    /// # Examples
    /// ```
    /// # async fn example(mesh: countersign::Mesh) {
    /// while let Some(svid) = mesh.updated().await {
    ///     println!("serial number {} until {}", svid.serial(), svid.not_after());
    /// }
    /// # }
    /// ```
    pub fn updated(&self) -> impl Future<Output = Option<Arc<Svid>>> + Send + use<> {
        let mut identity = self.0.source.identity.clone();
        let before = identity.borrow_and_update().live().cloned();
        async move {
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
                .map(|generation| Arc::clone(generation.shown()))
        }
    }

    /// What happened to this mesh since it began to join, as values: see [`Events`].
    #[must_use = "events are read by Events::next"]
    pub fn events(&self) -> Events {
        self.0.events.read()
    }

    /// The generation to act with.
    pub(crate) fn generation(&self) -> Result<Arc<Generation>, NoIdentity> {
        let generation = match &*self.0.source.identity.borrow() {
            Identity::Live(generation) => Arc::clone(generation),
            Identity::Unreached(why)
            | Identity::Waiting(why)
            | Identity::Unusable(why)
            | Identity::Withdrawn(why) => return Err(NoIdentity::new(Arc::clone(why))),
        };
        let not_after = generation.svid().not_after();
        if self.0.clock.now() > not_after {
            let why =
                format!("its SVID expired at {not_after} and the node agent has not sent another");
            return Err(NoIdentity::new(why));
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

    pub(crate) fn event_log(&self) -> &EventLog {
        &self.0.events
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    pub(crate) fn source(&self) -> &Reader {
        &self.0.source
    }

    /// Now, on both clocks.
    pub(crate) fn now(&self) -> Now {
        Now {
            wall: self.0.clock.now(),
            mono: self.0.started.elapsed(),
        }
    }

    /// When the wall clock will show this time, on tokio's clock.
    pub(crate) fn instant_of(&self, time: UnixTime) -> Instant {
        Instant::now() + time.since(self.0.clock.now())
    }
}
