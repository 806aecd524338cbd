//! Who is calling: a process that the kernel named becomes a set of selectors.
//!
//! One module per workload attestor. Attestors look at the process only through [`Process`], which was bound to the
//! caller's socket credentials, so none of them can be fooled by a PID that was given to another process meanwhile.
//! Called once per stream by `api`.

mod digest;
mod process;
mod unix;

use std::sync::Arc;

use countersign_identity::{Selector, SelectorSet};
use countersign_runtime::turns::Turns;

pub use digest::{Digests, TooLarge};
pub use process::{Caller, Handle, Process, ProcessError, ProcessStatus};
pub use unix::{Digest, Discover, Unix};

use crate::limits;

/// One way to find out about a process. Runs on a blocking thread: it may read files and ask name services.
pub trait WorkloadAttestor: Send + Sync {
    /// The type of its selectors, such as `unix`.
    fn name(&self) -> &'static str;

    /// The values of the selectors that hold for the process.
    ///
    /// # Errors
    /// Something that a selector needs could not be found out; then none of this attestor's selectors count.
    fn attest(&self, process: &Process) -> Result<Vec<String>, AttestorError>;
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
    /// The attestors took longer than [`limits::WORKLOAD_ATTESTATION`].
    #[error(
        "workload attestation took longer than {:?}",
        limits::WORKLOAD_ATTESTATION
    )]
    TooSlow,
    /// An attestor ended abnormally.
    #[error("workload attestor {0} ended abnormally")]
    Crashed(&'static str),
}

/// All configured attestors, run side by side. Clones share the turns of callers.
#[derive(Clone)]
pub struct Attestors {
    all: Arc<[Arc<dyn WorkloadAttestor>]>,
    /// Of each user: attestations take threads, and reading a large executable takes one for long.
    turns: Turns<u32>,
}

impl Attestors {
    /// These attestors.
    #[must_use]
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self {
            all: attestors.into(),
            turns: Turns::new(limits::ATTESTATIONS_PER_USER),
        }
    }

    /// The caller's selectors: those of all attestors that succeeded. None of them succeeding is a failure, and so is a
    /// process that is not the same any more when they are done.
    ///
    /// # Errors
    /// [`AttestationFailed`].
    pub async fn attest(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        let attested = async {
            let turn = self.turns.wait(caller.uid).await;
            let this = self.clone();
            // Blocking jobs run on when nobody waits for them any more, and hold their turn until they are done.
            let job = tokio::spawn(async move {
                let _turn = turn;
                this.attest_unbounded(caller).await
            });
            job.await
                .map_err(|_| AttestationFailed::Crashed("attestation"))?
        };
        tokio::time::timeout(limits::WORKLOAD_ATTESTATION, attested)
            .await
            .map_err(|_| AttestationFailed::TooSlow)?
    }

    async fn attest_unbounded(&self, caller: Caller) -> Result<SelectorSet, AttestationFailed> {
        let opened = tokio::task::spawn_blocking(move || Process::open(&caller)).await;
        let process = Arc::new(opened.map_err(|_| AttestationFailed::Crashed("process"))??);
        let jobs: Vec<_> = self
            .all
            .iter()
            .map(|attestor| {
                let (attestor, process) = (Arc::clone(attestor), Arc::clone(&process));
                let name = attestor.name();
                (
                    name,
                    tokio::task::spawn_blocking(move || attestor.attest(&process)),
                )
            })
            .collect();

        let mut selectors = Vec::new();
        let mut failed = None;
        let mut succeeded = self.all.is_empty();
        for (name, job) in jobs {
            match job.await.map_err(|_| AttestationFailed::Crashed(name))? {
                Ok(values) => {
                    succeeded = true;
                    selectors.extend(values.iter().filter_map(|v| Selector::new(name, v).ok()));
                }
                Err(error) => {
                    tracing::warn!(attestor = name, pid = process.pid(), %error, "workload attestor failed");
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

#[cfg(test)]
mod tests;
