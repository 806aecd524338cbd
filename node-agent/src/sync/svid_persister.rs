//! Writes workloads' SVIDs to disk, so that the next process can serve them while the server can't be reached.
//!
//! Written after changes, not more often than once a second, and once more at the end. A full disk costs only
//! this: it is reported, and tried again.

use countersign_transport::error::Chain;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::SvidCache;
use crate::storage::svids::{self, SvidStore};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const FAULT_PAUSE: Duration = Duration::from_secs(30);

/// Writes the cache to disk.
#[derive(Debug, Default)]
pub(crate) struct SvidPersister {
    store: Option<Arc<SvidStore>>,
    unsaved: bool,
    not_before: Option<Instant>,
    fault: Option<String>,
}

impl SvidPersister {
    /// Writes nothing, because of the configuration.
    #[must_use]
    pub(crate) fn off() -> Self {
        Self::default()
    }

    /// Writes to this store.
    #[must_use]
    pub(crate) fn new(store: Arc<SvidStore>) -> Self {
        Self {
            store: Some(store),
            ..Self::default()
        }
    }

    /// The cache has changed.
    pub(super) fn changed(&mut self) {
        self.unsaved = self.store.is_some();
    }

    /// When there is something to write.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsaved
            .then(|| self.not_before.unwrap_or_else(Instant::now))
    }

    /// Why the last write failed.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.clone()
    }

    /// Writes the changes, if it is time.
    pub(super) async fn save_if_due(&mut self, cache: &SvidCache) {
        if self.due().is_some_and(|at| at <= Instant::now()) {
            self.save(cache).await;
        }
    }

    /// Writes the changes: the process ends.
    pub(super) async fn finish(&mut self, cache: &SvidCache) {
        if self.unsaved {
            self.save(cache).await;
        }
    }

    async fn save(&mut self, cache: &SvidCache) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let mut plain = svids::write_plain(cache.current(), cache.federated().values());
        let saved = tokio::task::spawn_blocking(move || store.save(&mut plain)).await;
        let pause = match saved {
            Ok(Err(error)) => {
                let text = Chain(&error).to_string();
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

    /// Removes the file: the server does not accept this node any more.
    pub(super) async fn forget(&mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        self.unsaved = false;
        let removed = tokio::task::spawn_blocking(move || store.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::error!(error = %Chain(&error), "Workloads' SVIDs could not be removed from disk: remove agent-svids.bin");
        }
    }
}
