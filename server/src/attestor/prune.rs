//! Forgetting nodes: because an admin says so, or because they have been expired for long.

use std::time::Duration;

use countersign_identity::{Entry, Node, Selector, SpiffeId};
use countersign_store::backend::Seq;
use countersign_store::{NodeError, Store};
use countersign_transport::SharedClock;
use tokio_util::sync::CancellationToken;

use super::JoinToken;
use crate::registry::{EntryFilter, Match, NodeFilter, Page, Registry};

/// How often is looked, as often as SPIRE's server does. Up to half of it more, so that servers don't meet.
const EVERY: Duration = Duration::from_secs(45 * 60);

/// Which nodes are forgotten. Banned ones never are: that would lift the ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneNodes {
    /// Those whose SVID expired longer ago than this.
    pub expired_for: Duration,
    /// Also nodes that can't attest again by themselves, which so lose their ID for good.
    pub also_those_that_cannot_reattest: bool,
    /// At most so many at a time.
    pub most: usize,
}

/// Forgets nodes that have been expired for long, again and again.
#[derive(Clone, Debug)]
pub struct Pruner {
    prune: PruneNodes,
    store: Store,
    registry: Registry,
    clock: SharedClock,
}

impl Pruner {
    /// A pruner that has not begun.
    #[must_use]
    pub const fn new(
        prune: PruneNodes,
        store: Store,
        registry: Registry,
        clock: SharedClock,
    ) -> Self {
        Self {
            prune,
            store,
            registry,
            clock,
        }
    }

    /// Prunes until it is told to stop. What fails is told and tried again the next time.
    pub async fn run(self, stop: CancellationToken) {
        let pause = || EVERY + EVERY.mul_f64(rand::random_range(0.0..0.5));
        while stop
            .run_until_cancelled(tokio::time::sleep(pause()))
            .await
            .is_some()
        {
            match self.prune().await {
                Ok(0) => {}
                Ok(agents) => tracing::info!(agents, "Pruned expired agents"),
                Err(error) => tracing::error!(%error, "Could not prune expired agents"),
            }
        }
    }

    /// How many were forgotten.
    async fn prune(&self) -> Result<usize, NodeError> {
        let PruneNodes {
            expired_for,
            also_those_that_cannot_reattest,
            most,
        } = self.prune;
        let filter = NodeFilter {
            banned: Some(false),
            can_reattest: (!also_those_that_cannot_reattest).then_some(true),
            expires_before: Some(self.clock.now().before(expired_for)),
            ..NodeFilter::default()
        };
        // Looked at again where it is deleted: it may have attested meanwhile.
        let due = |node: &Node| {
            let renewed = |pending: &countersign_identity::node::Credential| {
                Some(pending.expires_at) >= filter.expires_before
            };
            filter.wants(node) && !node.pending.as_ref().is_some_and(renewed)
        };
        let mut gone = 0;
        let found = self.registry.nodes(&filter, Page::All);
        for node in found.iter().take(most) {
            match evict(&self.store, &self.registry, &node.value.id, &due).await {
                Ok(Some(_)) => gone += 1,
                Ok(None) | Err(NodeError::Missing) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

/// Forgets a node that is as `due` says, and the entry that came with its join token. Without a commit it stayed.
///
/// # Errors
/// There is no such node, or the store failed.
pub async fn evict(
    store: &Store,
    registry: &Registry,
    id: &SpiffeId,
    due: &(dyn Fn(&Node) -> bool + Sync),
) -> Result<Option<Seq>, NodeError> {
    let node = registry.node(id).ok_or(NodeError::Missing)?;
    let alias = (node.value.attestation_type == JoinToken::NAME)
        .then(|| token_entry(registry, id))
        .flatten();
    store.node_deleted(id, alias.as_ref(), due).await
}

/// The entry that came with the node's join token: below the node, with the node's ID as its only selector.
fn token_entry(registry: &Registry, node: &SpiffeId) -> Option<Entry> {
    let own = Selector::new("spiffe_id", node.as_str());
    let filter = EntryFilter {
        parent_id: Some(node.clone()),
        selectors: Some((Match::Exact, own.into_iter().collect())),
        ..EntryFilter::default()
    };
    let found = registry.entries(&filter, Page::All);
    found.first().map(|record| record.value.clone())
}

#[cfg(test)]
mod tests {
    use countersign_identity::UnixTime;
    use countersign_identity::node::Credential;
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
        let registry = Registry::load(store.clone()).await.unwrap();
        tokio::spawn(registry.follow());
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
            registry.reached(written.seq).await.unwrap();
        }
        let clock = TestClock::fixed(UnixTime::from_secs(NOW)).shared();
        let pruner = Pruner::new(prune, store.clone(), registry, clock);
        pruner.prune().await.unwrap();
        let nodes = store.nodes_page(None).await.unwrap();
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        nodes.iter().map(|n| name(n.value.id.path())).collect()
    }

    #[tokio::test]
    async fn only_what_expired_long_ago_and_can_come_back_goes() {
        let prune = PruneNodes {
            expired_for: Duration::from_secs(60),
            also_those_that_cannot_reattest: false,
            most: 10,
        };
        assert_eq!(left(prune).await, ["banned", "fresh", "renewed", "token"]);
        let all = PruneNodes {
            also_those_that_cannot_reattest: true,
            ..prune
        };
        assert_eq!(left(all).await, ["banned", "fresh", "renewed"]);
        let one = PruneNodes { most: 1, ..prune };
        assert_eq!(left(one).await.len(), 5);
    }
}
