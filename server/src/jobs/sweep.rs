//! Removes expired entries, and expired join tokens that were not used.

use std::time::Duration;

use countersign_identity::Entry;
use countersign_store::limits::MAX_BATCH_COMMITS;
use countersign_store::{Store, StoreError};
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use tokio_util::sync::CancellationToken;

use crate::index::{Behind, Index};

/// The pause between two runs. Until the next run an expired entry counts as any other, as with SPIRE.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Sweeps at each interval until `stop`.
pub(crate) async fn run(store: Store, index: Index, clock: SharedClock, stop: CancellationToken) {
    let again = async {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = sweep(&store, &index, &clock).await {
                tracing::warn!(
                    error = %Chain(&error),
                    "Could not remove expired entries and tokens; trying again later"
                );
            }
        }
    };
    tokio::select! {
        () = again => {}
        () = stop.cancelled() => {}
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Behind(#[from] Behind),
}

async fn sweep(store: &Store, index: &Index, clock: &SharedClock) -> Result<(), SweepError> {
    let now = clock.now();
    let expired = |entry: &Entry| entry.expires_at.is_some_and(|end| end < now);
    for ids in index.expired_entries(now).chunks(MAX_BATCH_COMMITS) {
        // Checked again inside of the transaction: an update may have prolonged the entry meanwhile.
        let deleted = store.entries_delete_if(ids, expired).await?;
        for (id, deleted) in ids.iter().zip(index.visible(deleted).await?) {
            if deleted.is_ok() {
                tracing::info!(entry_id = %id, "Pruned an expired registration");
            }
        }
    }
    let tokens = store.tokens_prune(now).await?;
    if tokens > 0 {
        tracing::info!(tokens, "Pruned expired join tokens");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_transport::clock::TestClock;

    use super::*;
    use crate::index::tests::{entry, following};

    #[tokio::test]
    async fn only_expired_entries_and_tokens_are_removed() {
        let (store, index) = following().await;
        let clock = TestClock::fixed(countersign_identity::UnixTime::from_secs(1_000)).shared();
        let until = |name: &str, secs| Entry {
            expires_at: Some(countersign_identity::UnixTime::from_secs(secs)),
            ..entry(name, &format!("/{name}"), "/p", &[1])
        };
        let entries = [
            until("old", 999),
            until("now", 1_000),
            entry("ever", "/ever", "/p", &[1]),
        ];
        let made = store.entries_create(&entries).await.unwrap();
        for result in index.visible(made).await.unwrap() {
            result.unwrap();
        }
        let expired = countersign_identity::UnixTime::from_secs(1);
        let last = store.token_create("t", expired, None).await.unwrap();
        index.visible(last).await.unwrap();
        sweep(&store, &index, &clock).await.unwrap();
        let left: Vec<String> = store
            .entries_page(None)
            .await
            .unwrap()
            .iter()
            .map(|record| record.value.id.to_string())
            .collect();
        assert_eq!(left, ["ever", "now"]);
        assert!(
            store.token_create("t", expired, None).await.is_ok(),
            "the token is gone"
        );
    }
}
