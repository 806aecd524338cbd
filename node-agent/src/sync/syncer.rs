//! The one task that owns everything: it syncs, has SVIDs signed, renews the node's own, and publishes.
//!
//! A [`StartingSyncer`] becomes a [`RunningSyncer`] by its first sync. What the server's refusals mean is decided in
//! [`super::judge`] and done in [`super::reattest`]; the signing stands in [`super::signing`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::KeyType;
use countersign_transport::SharedClock;
use countersign_transport::backoff::Backoff;
use countersign_transport::error::Chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::batch::BatchSize;
use super::cache::{Subscribed, SvidCache};
use super::fatal::Fatal;
use super::feed::Feed;
use super::health::SyncHealth;
use super::judge::Phase;
use super::retry::Retry;
use super::rpc;
use super::svid_persister::SvidPersister;
use crate::client::{CallError, ServerClient, TrustedBundles};
use crate::node::Node;
use crate::node_attestor::{NodeAttestor, Trust};
use crate::rotation::Moment;

/// What the configuration says about syncing.
#[derive(Clone, Debug)]
pub(crate) struct SyncConfig {
    /// How often entries and bundles are asked for.
    pub(crate) interval: Duration,
    /// The type of workloads' keys.
    pub(crate) key_type: KeyType,
    /// How this node is attested, should that be necessary again.
    pub(crate) attestor: Arc<dyn NodeAttestor>,
    /// Where trust in the server comes from, should it be lost.
    pub(crate) trust: Trust,
}

/// Why a call failed, as far as it matters to what is next.
pub(super) enum Failure {
    /// Another try may succeed.
    Retryable(CallError),
    /// The node agent ends.
    Fatal(Fatal),
}

/// What a syncer is made of.
pub(crate) struct Parts {
    /// The connection to the server.
    pub(crate) client: ServerClient,
    /// The bundles by which `client` verifies the server.
    pub(crate) bundles: TrustedBundles,
    /// The node's own identity.
    pub(crate) node: Node,
    /// Workloads' SVIDs, perhaps those of an earlier process.
    pub(crate) cache: SvidCache,
    /// Where snapshots are published.
    pub(crate) feed: Feed,
    /// Writes workloads' SVIDs for the next process.
    pub(crate) persister: SvidPersister,
    /// Reports to health and metrics.
    pub(crate) health: SyncHealth,
    /// The clock.
    pub(crate) clock: SharedClock,
}

/// What both phases of the syncer work on.
pub(super) struct Core {
    pub(super) client: ServerClient,
    pub(super) bundles: TrustedBundles,
    pub(super) node: Node,
    pub(super) cache: SvidCache,
    feed: Feed,
    pub(super) persister: SvidPersister,
    pub(super) health: SyncHealth,
    pub(super) clock: SharedClock,
    pub(super) config: SyncConfig,
    pub(super) phase: Phase,
    pub(super) batch: BatchSize,
    pub(super) signing: Retry,
    pub(super) tainted: Retry,
    /// Since when the server has shown a certificate of an unknown authority.
    pub(super) unknown_since: Option<Instant>,
    /// How many SVIDs were valid when they were published last.
    published: usize,
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// The longest wait without looking at the wall clock, which may be set at any time.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// A syncer before its first sync.
pub(crate) struct StartingSyncer(Core);

/// A syncer that callers rely on.
pub(crate) struct RunningSyncer {
    pub(super) core: Core,
    pub(super) renewal: Retry,
}

impl StartingSyncer {
    /// The syncer of an attested node.
    ///
    /// # Errors
    /// The node has no identity, or no bundle.
    pub(crate) fn new(mut parts: Parts, config: SyncConfig) -> Result<Self, Fatal> {
        let (Some(identity), Some(bundle)) = (parts.node.identity(), parts.node.bundle()) else {
            return Err(Fatal::NoIdentity);
        };
        parts.bundles.replace(Arc::new(bundle.clone()));
        parts.client.identify(identity.svid.clone());
        Ok(Self(Core {
            client: parts.client,
            bundles: parts.bundles,
            node: parts.node,
            cache: parts.cache,
            feed: parts.feed,
            persister: parts.persister,
            health: parts.health,
            clock: parts.clock,
            config,
            phase: Phase::Starting,
            batch: BatchSize::default(),
            signing: Retry::new(Duration::from_millis(500), 4 * MINUTE),
            tainted: Retry::new(Duration::from_secs(5), Duration::from_secs(5)),
            unknown_since: None,
            published: 0,
        }))
    }

    /// The first sync: returns when entries and bundles are known, so that callers get an answer that is true. Faults that
    /// may pass are logged and tried again.
    ///
    /// # Errors
    /// The server does not accept the node, or can't be verified.
    pub(crate) async fn start(self) -> Result<RunningSyncer, Fatal> {
        let Self(mut core) = self;
        let mut backoff = core.sync_backoff();
        loop {
            match core.sync().await {
                Ok(()) => break,
                Err(Failure::Fatal(fatal)) => return Err(fatal),
                Err(Failure::Retryable(error)) => {
                    let wait = core.retry_sync_in(&error, &mut backoff)?;
                    core.wait_until(Instant::now() + wait).await;
                    core.catch_up_with_time().await;
                }
            }
        }
        let posted = core.client.call(rpc::POST_STATUS, rpc::post_status).await;
        if let Err(error) = posted {
            // Older servers don't have this call, and nothing depends on it.
            tracing::debug!(error = %Chain(&error), "Could not post this node agent's version");
        }
        core.sign_due().await?;
        core.phase = Phase::Running;
        core.catch_up_with_time().await;
        Ok(RunningSyncer {
            core,
            renewal: Retry::new(Duration::from_secs(5), 2 * MINUTE),
        })
    }
}

impl RunningSyncer {
    /// Keeps everything up to date until `stop` is cancelled.
    ///
    /// # Errors
    /// Why the node agent can't go on.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        if let Some(Err(fatal)) = stop.run_until_cancelled(self.run_until_fatal()).await {
            return Err(fatal);
        }
        // A graceful shutdown loses nothing that was signed since the last write.
        self.core.persister.finish(&self.core.cache).await;
        Ok(())
    }

    async fn run_until_fatal(&mut self) -> Result<Infallible, Fatal> {
        let interval = self.core.config.interval;
        let mut backoff = self.core.sync_backoff();
        let mut next_sync = Instant::now() + interval;
        loop {
            self.core.wait_until(next_sync.min(self.next_due())).await;
            self.renew_if_due().await?;
            if next_sync <= Instant::now() {
                let wait = match self.core.sync().await {
                    Ok(()) => {
                        backoff.reset();
                        interval
                    }
                    Err(Failure::Fatal(fatal)) => return Err(fatal),
                    Err(Failure::Retryable(error)) => {
                        self.core.retry_sync_in(&error, &mut backoff)?
                    }
                };
                next_sync = Instant::now() + wait;
            }
            self.core.sign_due().await?;
            self.core.catch_up_with_time().await;
        }
    }

    /// When the next SVID is due, the node's own or a workload's, and may be asked for.
    fn next_due(&self) -> Instant {
        let Core {
            node,
            cache,
            signing,
            tainted,
            clock,
            ..
        } = &self.core;
        let now = Moment::now(&**clock);
        let callers = self.core.callers();
        let renewal = self.renewal.open_from(node.renew().instant(now));
        let due = cache
            .next_due(now, &callers, false)
            .map(|due| signing.open_from(due));
        // Those of a tainted authority wait for both: they must not hold up the others.
        let due_tainted = cache
            .next_due(now, &callers, true)
            .map(|due| tainted.open_from(signing.open_from(due)));
        [Some(renewal), due, due_tainted]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(renewal)
    }
}

impl Core {
    /// Waits until `next`, or until there is something to do before: a write to the disk, a caller whose SVIDs are signed
    /// on demand.
    async fn wait_until(&self, next: Instant) {
        let next = next.min(Instant::now() + CLOCK_CHECK);
        let next = self.persister.due().map_or(next, |save| next.min(save));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.feed.unsigned_subscriber() => {}
        }
    }

    /// Does what is due by the passing of time alone: SVIDs expire, callers leave, changes go to the disk.
    async fn catch_up_with_time(&mut self) {
        let now = Moment::now(&*self.clock);
        let evicted = self.cache.depends_on_callers() && self.cache.evict(&self.callers(), now);
        if evicted || self.cache.valid(now.wall) != self.published {
            self.publish();
        }
        self.node.save_again().await;
        self.persister.save_if_due(&self.cache).await;
        let fault = self.node.fault().or_else(|| self.persister.fault());
        self.health.storage(fault);
        self.health.cached(&self.cache, &self.node, now.wall);
    }

    async fn sync(&mut self) -> Result<(), Failure> {
        let span = span!("sync");
        self.sync_within().instrument(span).await
    }

    async fn sync_within(&mut self) -> Result<(), Failure> {
        let known = self.cache.entries().clone();
        let known = &known;
        let trust_domain = self.client.trust_domain().clone();
        let trust_domain = &trust_domain;
        let began = Instant::now();
        let synced = loop {
            let result = self
                .client
                .call(rpc::SYNC, |channel| rpc::sync(channel, trust_domain, known))
                .await;
            match result {
                Ok(synced) => break synced,
                Err(error) => {
                    self.health.sync_failed(&error);
                    // With another identity the same call is worth another try at once.
                    self.handle_refusal(error).await?;
                }
            }
        };
        self.unknown_since = None;
        self.health.synced(began.elapsed());
        self.node.used().await;
        let now = Moment::now(&*self.clock);
        let bundle = Arc::new(synced.bundle);
        if self.node.saw_bundle(&bundle, now).await {
            tracing::info!(
                sequence_number = bundle.sequence_number,
                "Trust bundle updated"
            );
        }
        self.bundles.replace(Arc::clone(&bundle));
        self.cache.replace_entries(synced.entries);
        self.cache.replace_bundles(bundle, synced.federated, now);
        self.feed.synced(now.wall);
        self.publish();
        Ok(())
    }

    /// Logs a sync that failed. How long to wait before the next; an SVID that has expired ends the waiting.
    fn retry_sync_in(&self, error: &CallError, backoff: &mut Backoff) -> Result<Duration, Fatal> {
        self.check_expiry(error)?;
        let wait = backoff.next_wait();
        tracing::warn!(
            error = %Chain(error),
            advice = error.advice(),
            retry_in_seconds = wait.as_secs(),
            "Could not sync with the server yet"
        );
        Ok(wait)
    }

    /// The entries for which there are streams, if that matters.
    pub(super) fn callers(&self) -> Subscribed {
        if self.cache.depends_on_callers() {
            self.feed.subscribed()
        } else {
            Subscribed::new()
        }
    }

    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        self.published = self.cache.valid(now);
        if self.feed.publish(self.cache.snapshot(now)) {
            self.persister.changed();
        }
    }

    fn sync_backoff(&self) -> Backoff {
        let interval = self.config.interval;
        Backoff::new(interval, (8 * MINUTE).min(interval * 48)).factor(1.5)
    }
}
