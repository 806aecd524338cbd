//! Removes expired entries, and expired join tokens that were not used.

use std::time::Duration;

use countersign_identity::Entry;
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use tokio_util::sync::CancellationToken;

use crate::index::Index;
use countersign_store::limits::MAX_BATCH_COMMITS;
use countersign_store::{Store, StoreError};

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

async fn sweep(store: &Store, index: &Index, clock: &SharedClock) -> Result<(), StoreError> {
    let now = clock.now();
    let expired = |entry: &Entry| entry.expires_at.is_some_and(|end| end < now);
    for ids in index.expired_entries(now).chunks(MAX_BATCH_COMMITS) {
        // Checked again inside of the transaction: an update may have prolonged the entry meanwhile.
        for (id, deleted) in ids.iter().zip(store.entries_delete_if(ids, expired).await?) {
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
        for made in store.entries_create(&entries).await.unwrap() {
            index.reached(made.unwrap().seq).await.unwrap();
        }
        let expired = countersign_identity::UnixTime::from_secs(1);
        let last = store.token_create("t", expired, None).await.unwrap();
        index.reached(last).await.unwrap();
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
