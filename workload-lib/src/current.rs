//! What the running task may do in the mesh: the task-local that covers a handler and the body of its answer.

use crate::context::Context;

tokio::task_local! {
    static CURRENT: Current;
}

/// What code that runs for a call has to go by.
#[derive(Clone, Debug)]
pub(crate) enum Current {
    /// It acts within a verified chain, or within one that it started.
    In(Context),
    /// It serves a call that came without a chain: it has no context and must not start a chain of its own.
    Barred,
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
