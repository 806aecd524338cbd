//! Prunes node agents whose SVIDs expired long ago.

use std::time::Duration;

use countersign_identity::Node;
use countersign_identity::node::Credential;
use countersign_store::{NodeError, Store};
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use tokio_util::sync::CancellationToken;

use crate::index::{Behind, Index, NodeFilter, Page};
use crate::node_attestor::evict;

/// The pause between two runs, SPIRE's. Up to half of it is added, so that servers don't run at the same time.
const EVERY: Duration = Duration::from_secs(45 * 60);

/// Which nodes are pruned. Banned nodes never are: that would lift the ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PruneNodes {
    /// Nodes whose SVID expired longer ago than this.
    pub(crate) expired_for: Duration,
    /// Also nodes that can't attest again by themselves (trust on first use), which lose their ID for good.
    pub(crate) tofu: bool,
    /// At most this many in one run.
    pub(crate) batch: usize,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Behind(#[from] Behind),
}

/// The job.
#[derive(Clone, Debug)]
pub(crate) struct Pruner {
    prune: PruneNodes,
    store: Store,
    index: Index,
    clock: SharedClock,
}

impl Pruner {
    #[must_use]
    pub(crate) const fn new(
        prune: PruneNodes,
        store: Store,
        index: Index,
        clock: SharedClock,
    ) -> Self {
        Self {
            prune,
            store,
            index,
            clock,
        }
    }

    /// Prunes at each interval until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let pause = || EVERY + EVERY.mul_f64(rand::random_range(0.0..0.5));
        while stop
            .run_until_cancelled(tokio::time::sleep(pause()))
            .await
            .is_some()
        {
            match self.prune().await {
                Ok(0) => {}
                Ok(agents) => tracing::info!(agents, "Pruned expired agents"),
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "Could not prune expired agents");
                }
            }
        }
    }

    /// Returns how many were pruned.
    async fn prune(&self) -> Result<usize, PruneError> {
        let PruneNodes {
            expired_for,
            tofu,
            batch,
        } = self.prune;
        let filter = NodeFilter {
            banned: Some(false),
            can_reattest: (!tofu).then_some(true),
            expires_before: Some(self.clock.now().before(expired_for)),
            ..NodeFilter::default()
        };
        // Checked again inside of the deleting transaction: the node may have attested or renewed meanwhile.
        let due = |node: &Node| {
            let renewed = |pending: &Credential| Some(pending.expires_at) >= filter.expires_before;
            filter.wants(node) && !node.pending.as_ref().is_some_and(renewed)
        };
        let mut pruned = 0;
        let found = self.index.nodes(&filter, Page::All);
        for node in found.iter().take(batch) {
            match evict(&self.store, &self.index, &node.value.id, &due).await {
                Ok(deleted) => pruned += usize::from(self.index.visible(deleted).await?),
                // Deleted by an administrator meanwhile.
                Err(NodeError::Missing) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use countersign_identity::{SpiffeId, UnixTime};
    use countersign_transport::clock::TestClock;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn node(name: &str, can_reattest: bool, expired: Option<u64>, pending: Option<u64>) -> Node {
        let svid = |ago: u64| Credential {
            serial: "1".into(),
            expires_at: UnixTime::from_secs(NOW - ago),
        };
        Node {
            id: SpiffeId::parse(&format!("spiffe://td/spire/agent/x/{name}")).unwrap(),
            attestation_type: "x".into(),
            current: expired.map(svid),
            pending: pending.map(svid),
            can_reattest,
            selectors: Default::default(),
            agent_version: String::new(),
        }
    }

    async fn left(prune: PruneNodes) -> Vec<String> {
        let store = Store::in_memory();
        let index = Index::load(store.clone()).await.unwrap();
        tokio::spawn(index.follow());
        for node in [
            node("old", true, Some(100), None),
            node("older", true, Some(200), None),
            node("fresh", true, Some(50), None),
            node("renewed", true, Some(100), Some(0)),
            node("token", false, Some(100), None),
            node("banned", true, Some(100), None),
        ] {
            let mut written = store.node_attested(&node).await.unwrap();
            if let Some(pending) = node.pending.clone() {
                written = store.node_renewed(&node.id, pending).await.unwrap();
            }
            if node.id.path().ends_with("banned") {
                written = store.node_banned(&node.id).await.unwrap();
            }
            index.visible(written).await.unwrap();
        }
        let clock = TestClock::fixed(UnixTime::from_secs(NOW)).shared();
        let pruner = Pruner::new(prune, store.clone(), index, clock);
        pruner.prune().await.unwrap();
        let nodes = store.nodes_page(None).await.unwrap();
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        nodes.iter().map(|n| name(n.value.id.path())).collect()
    }

    #[tokio::test]
    async fn only_long_expired_nodes_that_can_reattest_are_pruned() {
        let prune = PruneNodes {
            expired_for: Duration::from_secs(60),
            tofu: false,
            batch: 10,
        };
        assert_eq!(left(prune).await, ["banned", "fresh", "renewed", "token"]);
        let all = PruneNodes {
            tofu: true,
            ..prune
        };
        assert_eq!(left(all).await, ["banned", "fresh", "renewed"]);
        let one = PruneNodes { batch: 1, ..prune };
        assert_eq!(left(one).await.len(), 5);
    }
}
