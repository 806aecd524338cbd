//! Supervised background tasks.
//!
//! A daemon that silently lost one of its tasks is worse than one that exited. If an essential task returns, fails or
//! panics, the whole daemon stops, and [`Tasks::join`] returns the reason.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::drain::{Drain, Drained};
use crate::error::{BoxError, Chain};

/// Why the daemon stopped although it was not asked to.
#[derive(Debug, thiserror::Error)]
#[error("the task {name:?} ended and with it everything else")]
pub struct TaskFault {
    /// The name given to [`Tasks::essential`].
    pub name: &'static str,
    /// How it ended.
    #[source]
    pub reason: FaultReason,
}

/// How an essential task ended.
#[derive(Debug, thiserror::Error)]
pub enum FaultReason {
    /// It returned although nothing asked it to.
    #[error("ended by itself")]
    Ended,
    /// It returned an error.
    #[error("failed")]
    Failed(#[source] BoxError),
    /// It panicked, with this message.
    #[error("panicked: {0}")]
    Panicked(String),
}

/// The supervised tasks of one daemon; clones share them.
#[derive(Clone, Debug)]
pub struct Tasks(Arc<TasksState>);

#[derive(Debug)]
struct TasksState {
    token: CancellationToken,
    drain: Drain,
    fault: Mutex<Option<TaskFault>>,
}

impl Tasks {
    /// No tasks yet; `token` stops them, and is cancelled when an essential one ends.
    #[must_use]
    pub fn new(token: CancellationToken) -> Self {
        let drain = Drain::new(&token);
        Self(Arc::new(TasksState {
            token,
            drain,
            fault: Mutex::new(None),
        }))
    }

    /// Cancelled when the daemon stops, for whatever reason: tasks watch it and end.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Starts a task that the daemon can't do without: if it ends before the token is cancelled, the daemon stops.
    pub fn essential<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let inner = Arc::clone(&self.0);
        self.start(async move {
            let reason = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) if inner.token.is_cancelled() => return,
                Ok(Ok(())) => FaultReason::Ended,
                Ok(Err(error)) => FaultReason::Failed(error.into()),
                Err(panic) => FaultReason::Panicked(panic_text(&*panic)),
            };
            inner.fail(TaskFault { name, reason });
        });
    }

    /// Starts a task that may end without stopping the daemon; a panic in it is logged.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tracing::error!(task = name, message = panic_text(&*panic), "Task panicked");
            }
        });
    }

    fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        let guard = self.0.drain.guard();
        let cut = self.0.drain.cut().clone();
        tokio::spawn(async move {
            let _guard = guard;
            cut.run_until_cancelled(future).await;
        });
    }

    /// Waits until the token is cancelled, then up to `limit` for the tasks, and aborts those that are left.
    ///
    /// # Errors
    /// The first essential task that ended by itself.
    pub async fn join(&self, limit: Duration) -> Result<(), TaskFault> {
        self.0.token.cancelled().await;
        if let Drained::Cut(left) = self.0.drain.finish(limit).await {
            tracing::warn!(
                tasks = left,
                seconds = limit.as_secs(),
                "Tasks did not end in time and were aborted"
            );
        }
        self.0
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map_or(Ok(()), Err)
    }
}

impl TasksState {
    /// Stops the daemon. Only the first fault is recorded: it caused the later ones.
    fn fail(&self, fault: TaskFault) {
        tracing::error!(
            task = fault.name,
            error = %Chain(&fault.reason),
            "Essential task ended: stopping"
        );
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(fault);
        self.token.cancel();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn tasks() -> Tasks {
        Tasks::new(CancellationToken::new())
    }

    #[tokio::test]
    async fn tasks_that_watch_the_token_end_in_order() {
        let tasks = tasks();
        let token = tasks.token().clone();
        tasks.essential("watcher", async move {
            token.cancelled().await;
            Ok::<_, BoxError>(())
        });
        tasks.token().cancel();
        tasks.join(LONG).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_stops_the_daemon() {
        let ended = tasks();
        ended.essential("quiet", async { Ok::<_, BoxError>(()) });
        assert!(matches!(
            ended.join(LONG).await.unwrap_err().reason,
            FaultReason::Ended
        ));

        let failed = tasks();
        failed.essential("store", async { Err(BoxError::from("disk full")) });
        let fault = failed.join(LONG).await.unwrap_err();
        assert_eq!(
            (fault.name, fault.to_string().as_str()),
            (
                "store",
                "the task \"store\" ended and with it everything else"
            )
        );

        let panicked = tasks();
        panicked.essential("bug", async {
            if true {
                panic!("at {}", 7)
            } else {
                Ok::<_, BoxError>(())
            }
        });
        let FaultReason::Panicked(text) = panicked.join(LONG).await.unwrap_err().reason else {
            panic!()
        };
        assert_eq!(text, "at 7");
    }

    #[tokio::test]
    async fn another_task_may_end_and_even_panic() {
        let tasks = tasks();
        tasks.spawn("short", async {});
        tasks.spawn("bug", async { panic!("expected by this test") });
        while tasks.0.drain.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_aborted_when_the_time_is_up() {
        let tasks = tasks();
        let (alive, mut watched) = tokio::sync::mpsc::channel::<()>(1);
        tasks.spawn("deaf", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        tasks.token().cancel();
        tasks.join(LONG).await.unwrap();
        assert!(watched.recv().await.is_none());
    }
}
