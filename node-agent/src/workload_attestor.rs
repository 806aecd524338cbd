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
#[cfg(feature = "systemd-attestor")]
mod systemd;
mod unix;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Selector, SelectorSet};
use countersign_limits::KeyedSemaphore;
use countersign_transport::error::Chain;
use countersign_transport::log_limiter::LogLimiter;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use confinement::Confinement;
pub(crate) use container::{
    Containers, DOCKER_SOCKET, EngineError, Engines, Matchers, PODMAN_SOCKET,
};
pub(crate) use digest::TooLarge;
pub(crate) use process::{Caller, Process, ProcessError};
#[cfg(feature = "systemd-attestor")]
pub(crate) use systemd::{Systemd, SystemdError};
pub(crate) use unix::{Digest, Discover, Unix};

use crate::limits;
use crate::metrics::{ATTESTATION, ATTESTATION_FAILURES};

/// One way to find out about a process.
pub(crate) trait WorkloadAttestor: Send + Sync {
    /// The type of its selectors, such as `unix`.
    fn name(&self) -> &'static str;

    /// How long it may take. Its selectors don't count if it takes longer, and those of the others do.
    fn timeout(&self) -> Duration {
        limits::WORKLOAD_ATTESTOR
    }

    /// The values of the selectors that hold for the process. Fails if something that a selector needs could not be
    /// found out; then none of this attestor's selectors count.
    fn attest(self: Arc<Self>, process: Arc<Process>, deadline: Deadline) -> Values;
}

/// The values of one attestor's selectors, once it has found them out.
pub(crate) type Values = BoxFuture<'static, Result<Vec<String>, AttestorError>>;

/// Until when an attestor's selectors are waited for. Work on a blocking thread, which can't be dropped, looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    until: Instant,
    cancelled: CancellationToken,
}

impl Deadline {
    /// The moment when this time has passed.
    #[must_use]
    pub(crate) fn after(long: Duration) -> Self {
        Self {
            until: Instant::now() + long,
            cancelled: CancellationToken::new(),
        }
    }

    /// Whether it has passed, or the caller has stopped waiting.
    #[must_use]
    pub(crate) fn has_passed(&self) -> bool {
        self.cancelled.is_cancelled() || Instant::now() >= self.until
    }
}

/// Looks at a process on a thread where looking may take a while, as reading files may.
async fn on_blocking_thread<T, F>(process: &Arc<Process>, look: F) -> Result<T, AttestorError>
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
pub(crate) enum AttestorConfig {
    /// User, groups and executable.
    Unix(Discover),
    /// What keeps the process from doing harm.
    Confinement,
    /// The `docker` and `podman` attestors.
    Containers(Engines),
    /// The unit.
    #[cfg(feature = "systemd-attestor")]
    Systemd,
}

impl AttestorConfig {
    /// The attestor itself.
    #[must_use]
    pub(crate) fn build(&self) -> Arc<dyn WorkloadAttestor> {
        match self {
            Self::Unix(discover) => Arc::new(Unix::new(*discover)),
            Self::Confinement => Arc::new(Confinement),
            #[cfg(feature = "systemd-attestor")]
            Self::Systemd => Arc::new(Systemd::default()),
            Self::Containers(engines) => Arc::new(Containers::new(engines.clone())),
        }
    }
}

/// Why one attestor could not judge a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestorError {
    /// The process could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The executable is larger than configured.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Threads come and go too fast to find out whether all of them are confined.
    #[error("threads came and went while they were looked at: ask again")]
    ThreadsChanging,
    /// More threads than are looked at.
    #[error("there are {0} threads, more than the {max} that are looked at", max = limits::THREADS)]
    TooManyThreads(usize),
    /// The container engine was of no use.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// systemd was of no use.
    #[cfg(feature = "systemd-attestor")]
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A pattern for cgroups hit what can't be a container's ID.
    #[error("what stands in the cgroup's path in the place of a container's ID can't be one")]
    NoContainerId,
    /// It is in several containers at once, which no engine does: it pretends.
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
pub(crate) enum AttestationFailed {
    /// The caller's process could not be bound to its socket, or did not stay the same.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Every attestor failed, the last one for this reason.
    #[error("no workload attestor could judge the process: {0}")]
    AllFailed(#[source] AttestorError),
    /// With the wait for a permit it took longer than [`limits::WORKLOAD_ATTESTATION`].
    #[error(
        "workload attestation took longer than {:?}",
        limits::WORKLOAD_ATTESTATION
    )]
    TooSlow,
}

/// All configured attestors, run side by side. Clones share the limits of callers.
#[derive(Clone)]
pub struct Attestors {
    all: Arc<[Arc<dyn WorkloadAttestor>]>,
    /// Of each user: attestations take threads, and reading a large executable takes one for long.
    permits: KeyedSemaphore<u32>,
    /// The limit on log lines that callers can cause.
    lines: Arc<LogLimiter>,
}

impl Attestors {
    /// These attestors.
    #[must_use]
    pub(crate) fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self {
            all: attestors.into(),
            permits: KeyedSemaphore::new(limits::ATTESTATIONS_PER_USER),
            lines: Arc::new(LogLimiter::new(limits::LINES_ABOUT_CALLERS)),
        }
    }

    /// The caller's selectors: those of all attestors that succeeded. None of them succeeding is a failure, and so is a
    /// process that is not the same any more when they are done.
    ///
    /// # Errors
    /// [`AttestationFailed`].
    pub(crate) async fn attest(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        tokio::time::timeout(limits::WORKLOAD_ATTESTATION, self.attest_unbounded(caller))
            .await
            .map_err(|_| AttestationFailed::TooSlow)?
    }

    async fn attest_unbounded(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        let permit = self.permits.acquire(caller.uid).await;
        // These reads are from kernel memory: moving them to another thread would take longer. The permit is held until
        // the last attestor is done, since blocking jobs go on after their caller has stopped waiting.
        let process = Arc::new(Process::open(&caller)?.holding(permit));
        let runs = self
            .all
            .iter()
            .map(|attestor| run_attestor(attestor, &process));

        let mut selectors = Vec::new();
        let mut failed = None;
        let mut succeeded = self.all.is_empty();
        for (name, result) in join_all(runs).await {
            match result {
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
                            error = %Chain(&error),
                            held_back = (held_back > 0).then_some(held_back),
                            "Workload attestor failed"
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

/// The result of one attestor, within its timeout; a panic counts as a failure.
async fn run_attestor(
    attestor: &Arc<dyn WorkloadAttestor>,
    process: &Arc<Process>,
) -> (&'static str, Result<Vec<String>, AttestorError>) {
    let timeout = attestor.timeout();
    let deadline = Deadline::after(timeout);
    let _cancelled_at_the_end = deadline.cancelled.clone().drop_guard();
    let (attestor, process) = (Arc::clone(attestor), Arc::clone(process));
    let name = attestor.name();
    let began = Instant::now();
    let attesting = async { attestor.attest(process, deadline).await };
    let ended = tokio::time::timeout(timeout, AssertUnwindSafe(attesting).catch_unwind()).await;
    ::metrics::histogram!(ATTESTATION.name, "attestor" => name).record(began.elapsed());
    let values = match ended {
        Ok(Ok(values)) => values,
        Ok(Err(_)) => Err(AttestorError::Crashed),
        Err(_) => Err(AttestorError::TooSlow(timeout)),
    };
    (name, values)
}

#[cfg(test)]
mod tests;
