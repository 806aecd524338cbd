//! The start, from a configuration to a syncer after its first sync: storage, restoring the state of an earlier
//! process, attestation, the first sync.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::Bundle;
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;

use super::AgentError;
use crate::client::{ServerClient, SharedClient, TrustedBundles};
use crate::config::{AgentConfig, KeyStore};
use crate::jwt::JwtSvids;
use crate::node::{Node, NodeStorage};
use crate::node_attestor::{AttestError, NoProof, RetryLimit, attest};
use crate::rotation::Moment;
use crate::skew::{MAX_SKEW, Skew};
use crate::storage::svids::SvidStore;
use crate::storage::{NodeState, Storage};
use crate::sync::{
    Feed, Parts, RunningSyncer, StartingSyncer, SvidCache, SvidPersister, SyncConfig, SyncHealth,
};

/// How often restored SVIDs are checked for expiry while this node is not attested yet.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The inputs of the start.
pub(super) struct Start<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) feed: Feed,
    pub(super) jwt_svids: &'a JwtSvids,
    pub(super) clock: SharedClock,
    pub(super) health: SyncHealth,
}

impl Start<'_> {
    /// Everything up to the first sync. `announce` is called once callers are served, which may be long before that.
    pub(super) async fn start(
        mut self,
        announce: &impl Fn() -> Result<(), AgentError>,
    ) -> Result<RunningSyncer, AgentError> {
        let config = self.config;
        let (storage, state) = self.open_storage()?;
        let mut node = Node::new(storage, state, config.cache.rotation, self.now());
        let (persister, cache) = self.restore(&node);
        let kept = cache
            .as_ref()
            .map_or(0, |cache| cache.valid(self.clock.now()));
        let early = cache.as_ref().filter(|_| kept > 0);
        if let Some(cache) = early {
            self.feed.publish(cache.snapshot(self.clock.now()));
            self.health.serving_early(kept);
            tracing::info!(
                svids = kept,
                "Serving what was kept on disk until the server answers"
            );
            announce()?;
        }
        let bundles = TrustedBundles::default();
        let mut client = ServerClient::new(
            config.server.clone(),
            config.trust_domain.clone(),
            &bundles,
            Arc::clone(&self.clock),
        )
        .exchanging(config.key_exchange);
        if node.identity().is_some() {
            self.check_found(&node)?;
        } else {
            let retry_limit = match (early, config.trust.rebootstrap.delay()) {
                (Some(_), _) => RetryLimit::Unlimited,
                (None, Some(_)) => RetryLimit::Rebootstrap,
                (None, None) => RetryLimit::Short,
            };
            let attesting = self.attest(&mut node, &mut client, &bundles, retry_limit);
            tokio::select! {
                attested = attesting => attested?,
                () = self.look_again(early) => {}
            }
        }
        let another = ServerClient::new(
            config.server.clone(),
            config.trust_domain.clone(),
            &bundles,
            Arc::clone(&self.clock),
        )
        .exchanging(config.key_exchange);
        self.jwt_svids
            .connect(SharedClient::new(another, client.shown()));
        let bundle = Arc::new(self.bundle_of(&node));
        let sync = SyncConfig {
            interval: config.sync_interval,
            key_type: config.workload_key_type,
            attestor: Arc::clone(&config.node_attestor),
            trust: config.trust.clone(),
        };
        let parts = Parts {
            client,
            bundles,
            node,
            cache: cache.unwrap_or_else(|| SvidCache::new(bundle, config.cache)),
            feed: self.feed,
            persister,
            health: self.health,
            clock: self.clock,
        };
        Ok(StartingSyncer::new(parts, sync)?.start().await?)
    }

    fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    fn bundle_of(&self, node: &Node) -> Bundle {
        let empty = || Bundle::empty(self.config.trust_domain.clone());
        node.bundle().cloned().unwrap_or_else(empty)
    }

    fn open_storage(&self) -> Result<(NodeStorage, NodeState), AgentError> {
        let trust_domain = &self.config.trust_domain;
        let KeyStore::Disk(directory) = &self.config.key_store else {
            return Ok((NodeStorage::Memory, NodeState::empty(trust_domain.clone())));
        };
        // A few small files, before anything else runs: not worth a thread.
        let (storage, state) = Storage::open(directory, trust_domain)?;
        Ok((NodeStorage::Disk(Arc::new(storage)), state))
    }

    /// Restores the workloads' SVIDs of an earlier process. A failure is logged: they are signed anew.
    fn restore(&self, node: &Node) -> (SvidPersister, Option<SvidCache>) {
        let directory = match &self.config.key_store {
            KeyStore::Disk(directory) if self.config.svids_on_disk => directory,
            _ => return (SvidPersister::off(), None),
        };
        let store = match SvidStore::open(directory, &self.config.trust_domain) {
            Ok(store) => Arc::new(store),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "Workloads' SVIDs are not kept on disk");
                return (SvidPersister::off(), None);
            }
        };
        let kept = store.load().unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "What an earlier process kept for workloads is not used");
            None
        });
        let cache = kept.map(|kept| {
            let bundle = Arc::new(self.bundle_of(node));
            let mut cache = SvidCache::new(bundle, self.config.cache);
            cache.restore(kept.svids, kept.federated, self.now());
            cache
        });
        (SvidPersister::new(store), cache)
    }

    /// Whether the identity that was found on disk can be used now.
    fn check_found(&self, node: &Node) -> Result<(), AgentError> {
        let Some(identity) = node.identity() else {
            return Ok(());
        };
        let (not_before, now) = (identity.svid.not_before(), self.clock.now());
        if not_before > now.after(MAX_SKEW) {
            return Err(AgentError::NotYetValid(not_before, now));
        }
        tracing::info!(spiffe_id = %identity.svid.id(), expires_at = %identity.svid.not_after(), "SVID found on disk");
        Ok(())
    }

    async fn attest(
        &self,
        node: &mut Node,
        client: &mut ServerClient,
        bundles: &TrustedBundles,
        retry_limit: RetryLimit,
    ) -> Result<(), AgentError> {
        let attestor = &*self.config.node_attestor;
        let trusted = match node.bundle() {
            // A bundle seen earlier takes precedence over bootstrap trust.
            Some(bundle) => Some(bundle.clone()),
            None => {
                // Without any credential to attest with, fail before anything is fetched.
                drop(
                    attestor
                        .prove()
                        .map_err(|error| self.no_proof(node, error))?,
                );
                self.config.trust.bundle(&self.config.trust_domain).await?
            }
        };
        match trusted {
            Some(bundle) => bundles.replace(Arc::new(bundle)),
            None => {
                tracing::warn!(
                    "insecure_bootstrap: whoever answers on this first contact is believed to be the server"
                );
                client.trust_anyone();
            }
        }
        tracing::info!(
            server = client.address(),
            attestor = attestor.kind(),
            "Attesting this node"
        );
        let attested = match attest(client, attestor, retry_limit).await {
            Err(AttestError::NoProof(error)) => return Err(self.no_proof(node, error)),
            attested => attested?,
        };
        let svid = attested.identity.svid.clone();
        node.attested(attested, self.now()).await;
        tracing::info!(spiffe_id = %svid.id(), expires_at = %svid.not_after(), "This node is attested");
        // Checked after the SVID is on disk: the join token is used up, and the SVID works once the clock is set.
        Skew::of_new(&svid, self.clock.now()).map_or(Ok(()), |skew| Err(AgentError::Clock(skew)))
    }

    fn no_proof(&self, node: &Node, error: NoProof) -> AgentError {
        match (error, node.expired()) {
            (NoProof::NoToken, Some(at)) => AgentError::Expired(at, self.clock.now()),
            (NoProof::NoToken, None) => AgentError::NoToken,
            (error, _) => AttestError::NoProof(error).into(),
        }
    }

    /// Drops restored SVIDs as they expire while the server is unreachable. Never returns.
    async fn look_again(&self, early: Option<&SvidCache>) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Some(cache) = early {
                self.feed.publish(cache.snapshot(self.clock.now()));
            }
        }
    }
}
