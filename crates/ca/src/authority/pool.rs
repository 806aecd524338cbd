//! Where signing happens: blocking threads, two jobs at once for each core. One works while the next is handed over, so
//! that no core waits.
//!
//! A signature takes tens of microseconds to milliseconds of computation, or a round trip to a device. That must not hold
//! up the threads that serve connections, and a flood of requests must not pile up threads: the rest waits in order.

use std::sync::Arc;

use countersign_transport::error::BoxError;
use tokio::sync::Semaphore;

/// Signing requests that one job takes at most, so that a large batch leaves room for others between its jobs.
pub(super) const JOB_SIZE: usize = 16;

/// Jobs at once for each core.
const JOBS_PER_CORE: usize = 2;

/// Runs signing jobs. Cheap to clone; clones share the threads.
#[derive(Clone, Debug)]
pub(super) struct SigningPool {
    threads: Arc<Semaphore>,
}

impl SigningPool {
    /// A pool for this machine's cores.
    #[must_use]
    pub(super) fn per_core() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            threads: Arc::new(Semaphore::new(cores * JOBS_PER_CORE)),
        }
    }

    /// Runs one job when a thread is free, in the order of the calls.
    ///
    /// # Errors
    /// The job panicked, or the runtime is shutting down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BoxError> {
        let thread = Arc::clone(&self.threads).acquire_owned().await?;
        let done = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            job()
        });
        Ok(done.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_leaves_the_pool_usable() {
        let pool = SigningPool::per_core();
        for _ in 0..2 * pool.threads.available_permits() {
            pool.run(|| panic!("expected by this test"))
                .await
                .unwrap_err();
        }
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }
}
