//! Keeps what is held on disk, so that the next process can serve it while the server is away.
//!
//! Written after changes, not more often than once a second, and once more at the end. A disk that is full costs only
//! this: it is told, and tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::Cache;
use crate::storage::svids::{self, SvidStore};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const FAULT_PAUSE: Duration = Duration::from_secs(30);

/// The disk's side of the cache.
#[derive(Debug, Default)]
pub struct Keeper {
    store: Option<Arc<SvidStore>>,
    unsaved: bool,
    not_before: Option<Instant>,
    fault: Option<String>,
}

impl Keeper {
    /// Keeps nothing: an operator or the key manager said so.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Keeps it there.
    #[must_use]
    pub fn new(store: Arc<SvidStore>) -> Self {
        Self {
            store: Some(store),
            ..Self::default()
        }
    }

    /// What is held has changed.
    pub(super) fn changed(&mut self) {
        self.unsaved = self.store.is_some();
    }

    /// When there is something to write.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsaved
            .then(|| self.not_before.unwrap_or_else(Instant::now))
    }

    /// Why what is held can't be kept at the moment.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.clone()
    }

    /// Writes what changed, if it is time.
    pub(super) async fn save_if_due(&mut self, cache: &Cache) {
        if self.due().is_some_and(|at| at <= Instant::now()) {
            self.save(cache).await;
        }
    }

    /// Writes what changed: the process ends.
    pub(super) async fn finish(&mut self, cache: &Cache) {
        if self.unsaved {
            self.save(cache).await;
        }
    }

    async fn save(&mut self, cache: &Cache) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let mut plain = svids::write_plain(cache.held(), cache.federated().values());
        let saved = tokio::task::spawn_blocking(move || store.save(&mut plain)).await;
        let pause = match saved {
            Ok(Err(error)) => {
                let text = format!("{error}: {}", error.source);
                if self.fault.is_none() {
                    tracing::warn!(
                        error = text,
                        "Workloads' SVIDs can't be kept on disk: trying again"
                    );
                }
                self.fault = Some(text);
                FAULT_PAUSE
            }
            // An error here is the runtime going down, and the process with it.
            Ok(Ok(())) | Err(_) => {
                self.unsaved = false;
                self.fault = None;
                PAUSE
            }
        };
        self.not_before = Some(Instant::now() + pause);
    }

    /// Removes what is kept: the server does not accept this node any more.
    pub(super) async fn forget(&mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        self.unsaved = false;
        let removed = tokio::task::spawn_blocking(move || store.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::error!(%error, "Workloads' SVIDs could not be removed from disk: remove agent-svids.bin");
        }
    }
}
