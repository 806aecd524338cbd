//! Who is calling: a process that the kernel named becomes a set of selectors.
//!
//! One module per workload attestor. Attestors look at the process only through [`Process`], which was bound to the
//! caller's socket credentials, so none of them can be fooled by a PID that was given to another process meanwhile.
//! Called once per stream by `api`.

mod confinement;
mod container;
mod digest;
mod names;
mod process;
mod systemd;
mod unix;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Selector, SelectorSet};
use countersign_transport::allowance::Allowance;
use countersign_transport::turns::Turns;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use confinement::Confinement;
pub use container::{
    Containers, DOCKER_SOCKET, EngineError, Engines, InvalidMatchers, Matchers, PODMAN_SOCKET,
};
pub use digest::{Digests, TooLarge};
pub use process::{Caller, Process, ProcessError, ProcessStatus};
pub use systemd::{Systemd, SystemdError};
pub use unix::{Digest, Discover, Unix};

use crate::limits;
use crate::metrics::{ATTESTATION, ATTESTATION_FAILURES};

/// One way to find out about a process.
pub trait WorkloadAttestor: Send + Sync {
    /// The type of its selectors, such as `unix`.
    fn name(&self) -> &'static str;

    /// How long it may take. Its selectors don't count if it takes longer, and those of the others do.
    fn deadline(&self) -> Duration {
        limits::WORKLOAD_ATTESTOR
    }

    /// The values of the selectors that hold for the process. Fails if something that a selector needs could not be found
    /// out; then none of this attestor's selectors count.
    fn attest(self: Arc<Self>, process: Arc<Process>, patience: Patience) -> Values;
}

/// The values of one attestor's selectors, once it has found them out.
pub type Values = BoxFuture<'static, Result<Vec<String>, AttestorError>>;

/// How long somebody waits for an attestor. Work that can't be dropped, on a thread of its own, looks at it.
#[derive(Clone, Debug)]
pub struct Patience {
    until: Instant,
    given_up: CancellationToken,
}

impl Patience {
    /// For this long.
    #[must_use]
    pub fn of(long: Duration) -> Self {
        Self {
            until: Instant::now() + long,
            given_up: CancellationToken::new(),
        }
    }

    /// Nobody waits any more.
    pub fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.given_up.is_cancelled() || Instant::now() >= self.until
    }
}

/// Looks at a process on a thread where looking may take a while, as reading files may.
async fn looking<T, F>(process: &Arc<Process>, look: F) -> Result<T, AttestorError>
where
    T: Send + 'static,
    F: FnOnce(&Process) -> Result<T, AttestorError> + Send + 'static,
{
    let process = Arc::clone(process);
    tokio::task::spawn_blocking(move || look(&process))
        .await
        .map_err(|_| AttestorError::Crashed)?
}

/// A workload attestor as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configured {
    /// User, groups and executable.
    Unix(Discover),
    /// What keeps the process from doing harm.
    Confinement,
    /// What an engine says of the container.
    Containers(Engines),
    /// The unit.
    Systemd,
}

impl Configured {
    /// The attestor itself.
    #[must_use]
    pub fn attestor(&self) -> Arc<dyn WorkloadAttestor> {
        match self {
            Self::Unix(discover) => Arc::new(Unix::new(*discover)),
            Self::Confinement => Arc::new(Confinement),
            Self::Systemd => Arc::new(Systemd::default()),
            Self::Containers(engines) => Arc::new(Containers::new(engines.clone())),
        }
    }
}

/// Why one attestor could not judge a process.
#[derive(Debug, thiserror::Error)]
pub enum AttestorError {
    /// The process could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The executable is larger than configured.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Threads come and go too fast to be told that all of them are confined.
    #[error("threads came and went while they were looked at: ask again")]
    Restless,
    /// More threads than are looked at.
    #[error("there are {0} threads, more than the {max} that are looked at", max = limits::THREADS)]
    TooManyThreads(usize),
    /// The container engine was of no use.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// systemd was of no use.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A pattern for cgroups hit what can't be a container's ID.
    #[error("what stands in the cgroup's path in the place of a container's ID can't be one")]
    NoContainerId,
    /// It is in several containers at once, which only somebody who pretends is.
    #[error("its cgroups name several containers")]
    SeveralContainers,
    /// It took too long.
    #[error("it took longer than {0:?}")]
    TooSlow(Duration),
    /// It ended abnormally: a fault in this program.
    #[error("it ended abnormally")]
    Crashed,
}

/// Why a caller could not be attested at all.
#[derive(Debug, thiserror::Error)]
pub enum AttestationFailed {
    /// The caller's process could not be bound to its socket, or did not stay the same.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Every attestor failed; the last reason is kept.
    #[error("no workload attestor could judge the process: {0}")]
    AllFailed(#[source] AttestorError),
    /// With waiting for a turn it took longer than [`limits::WORKLOAD_ATTESTATION`].
    #[error(
        "workload attestation took longer than {:?}",
        limits::WORKLOAD_ATTESTATION
    )]
    TooSlow,
}

/// All configured attestors, run side by side. Clones share the turns of callers.
#[derive(Clone)]
pub struct Attestors {
    all: Arc<[Arc<dyn WorkloadAttestor>]>,
    /// Of each user: attestations take threads, and reading a large executable takes one for long.
    turns: Turns<u32>,
    /// How much of what callers make attestors say may stand in the log.
    lines: Arc<Allowance>,
}

impl Attestors {
    /// These attestors.
    #[must_use]
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self {
            all: attestors.into(),
            turns: Turns::new(limits::ATTESTATIONS_PER_USER),
            lines: Arc::new(Allowance::new(limits::LINES_ABOUT_CALLERS)),
        }
    }

    /// The caller's selectors: those of all attestors that succeeded. None of them succeeding is a failure, and so is a
    /// process that is not the same any more when they are done.
    ///
    /// # Errors
    /// [`AttestationFailed`].
    pub async fn attest(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        tokio::time::timeout(limits::WORKLOAD_ATTESTATION, self.attest_unbounded(caller))
            .await
            .map_err(|_| AttestationFailed::TooSlow)?
    }

    async fn attest_unbounded(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        let turn = self.turns.wait(caller.uid).await;
        // What is read here the kernel has in memory: handing it to another thread would take longer. The turn lasts until
        // the last attestor is done, since blocking jobs run on when nobody waits for them any more.
        let process = Arc::new(Process::open(&caller)?.in_turn(turn));
        let judgements = self.all.iter().map(|attestor| judge(attestor, &process));

        let mut selectors = Vec::new();
        let mut failed = None;
        let mut succeeded = self.all.is_empty();
        for (name, judgement) in join_all(judgements).await {
            match judgement {
                Ok(values) => {
                    succeeded = true;
                    selectors.extend(values.iter().filter_map(|v| Selector::new(name, v).ok()));
                }
                Err(error) => {
                    ::metrics::counter!(ATTESTATION_FAILURES.name, "attestor" => name).increment(1);
                    if let Some(held_back) = self.lines.line() {
                        tracing::warn!(
                            attestor = name,
                            pid = process.pid(),
                            %error,
                            held_back = (held_back > 0).then_some(held_back),
                            "workload attestor failed"
                        );
                    }
                    failed = Some(error);
                }
            }
        }
        process.check_same()?;
        match failed {
            Some(error) if !succeeded => Err(AttestationFailed::AllFailed(error)),
            _ => Ok(selectors.into_iter().collect()),
        }
    }
}

/// What one attestor says, within its own time and whatever becomes of it.
async fn judge(
    attestor: &Arc<dyn WorkloadAttestor>,
    process: &Arc<Process>,
) -> (&'static str, Result<Vec<String>, AttestorError>) {
    let deadline = attestor.deadline();
    let patience = Patience::of(deadline);
    let _given_up = patience.given_up.clone().drop_guard();
    let (attestor, process) = (Arc::clone(attestor), Arc::clone(process));
    let name = attestor.name();
    let began = Instant::now();
    let judging = async { attestor.attest(process, patience).await };
    let judged = tokio::time::timeout(deadline, AssertUnwindSafe(judging).catch_unwind()).await;
    ::metrics::histogram!(ATTESTATION.name, "attestor" => name).record(began.elapsed());
    let values = match judged {
        Ok(Ok(values)) => values,
        Ok(Err(_)) => Err(AttestorError::Crashed),
        Err(_) => Err(AttestorError::TooSlow(deadline)),
    };
    (name, values)
}

#[cfg(test)]
mod tests;
