//! The one task that owns everything: it syncs, has SVIDs signed, keeps the node's own, and publishes.
//!
//! What the server's refusals mean stands in [`super::standing`], the signing in [`super::signing`].

use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::KeyType;
use countersign_transport::SharedClock;
use countersign_transport::backoff::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::batch::BatchSize;
use super::cache::{Cache, Keeping, Subscribed};
use super::fatal::Fatal;
use super::feed::Feed;
use super::keep::Keeper;
use super::remote;
use super::report::Reports;
use super::retry::Retry;
use super::rotation::Moment;
use crate::attest::{NodeAttestor, Trust};
use crate::client::{CallError, ServerClient, TrustedBundles};
use crate::node::Node;

/// What the task is told by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often entries and bundles are asked for.
    pub interval: Duration,
    /// The keys of workloads.
    pub key_type: KeyType,
    /// What is held, and for how long.
    pub keeping: Keeping,
    /// What proves this node, should it have to attest again.
    pub attestor: Arc<dyn NodeAttestor>,
    /// Where trust in the server comes from, should it be lost.
    pub trust: Trust,
}

/// A failure that another try may mend, or one that ends the node agent.
pub(super) enum Failure {
    Passing(CallError),
    Fatal(Fatal),
}

/// The parts that an owner is made of.
pub struct Parts {
    /// The connection to the server.
    pub client: ServerClient,
    /// What `client` verifies by.
    pub bundles: TrustedBundles,
    /// The node's own identity.
    pub node: Node,
    /// What is held for workloads, perhaps by an earlier process.
    pub cache: Cache,
    /// Where snapshots go.
    pub feed: Feed,
    /// Where SVIDs outlive the process.
    pub keeper: Keeper,
    /// Where it is told how things stand.
    pub reports: Reports,
    /// The clock.
    pub clock: SharedClock,
}

/// The owner of cache, node identity and connection.
pub struct Syncer {
    pub(super) client: ServerClient,
    pub(super) bundles: TrustedBundles,
    pub(super) node: Node,
    pub(super) cache: Cache,
    pub(super) feed: Feed,
    pub(super) keeper: Keeper,
    pub(super) reports: Reports,
    pub(super) clock: SharedClock,
    pub(super) settings: Settings,
    pub(super) batch: BatchSize,
    pub(super) signing: Retry,
    pub(super) withdrawn: Retry,
    pub(super) renewal: Retry,
    pub(super) started: Started,
    /// Since when the server shows a certificate of an unknown authority.
    pub(super) unknown_since: Option<Instant>,
    /// How many SVIDs were valid when they were published last.
    published: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    No,
    Yes,
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// The longest wait without a look at the clock, which somebody may set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl Syncer {
    /// The owner of an attested node.
    ///
    /// # Errors
    /// The node has no identity, or no bundle.
    pub fn new(parts: Parts, settings: Settings) -> Result<Self, Fatal> {
        let Parts {
            mut client,
            bundles,
            node,
            cache,
            feed,
            keeper,
            reports,
            clock,
        } = parts;
        let (Some(identity), Some(bundle)) = (node.identity(), node.bundle()) else {
            return Err(Fatal::NoIdentity);
        };
        bundles.replace(Arc::new(bundle.clone()));
        client.identify(identity.svid.clone());
        Ok(Self {
            client,
            bundles,
            node,
            cache,
            feed,
            keeper,
            reports,
            clock,
            settings,
            batch: BatchSize::default(),
            signing: Retry::new(Duration::from_millis(500), 4 * MINUTE),
            withdrawn: Retry::new(Duration::from_secs(5), Duration::from_secs(5)),
            renewal: Retry::new(Duration::from_secs(5), 2 * MINUTE),
            started: Started::No,
            unknown_since: None,
            published: 0,
        })
    }

    /// The first sync: returns when entries and bundles are known, so that callers can be told the truth. Passing faults
    /// are tried again with a line in the log each time.
    ///
    /// # Errors
    /// The server does not accept the node, or can't be verified.
    pub async fn start(&mut self) -> Result<(), Fatal> {
        let mut backoff = self.sync_backoff();
        loop {
            match self.sync().await {
                Ok(()) => break,
                Err(Failure::Fatal(fatal)) => return Err(fatal),
                Err(Failure::Passing(error)) => {
                    let wait = self.passing(&error, &mut backoff)?;
                    self.wait(Instant::now() + wait).await;
                    self.look().await;
                }
            }
        }
        if let Err(error) = self
            .client
            .call(remote::POST_STATUS, remote::post_status)
            .await
        {
            tracing::debug!(%error, "server was not told the version");
        }
        self.sign_due().await?;
        self.started = Started::Yes;
        self.look().await;
        Ok(())
    }

    /// Keeps everything true until `stop` is cancelled.
    ///
    /// # Errors
    /// Why the node agent can't go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        let ended = stop.run_until_cancelled(self.run_for_ever()).await;
        if ended.is_none() {
            // In order: what was signed since the last write is not lost.
            self.keeper.finish(&self.cache).await;
        }
        ended.unwrap_or(Ok(()))
    }

    async fn run_for_ever(&mut self) -> Result<(), Fatal> {
        let mut backoff = self.sync_backoff();
        let mut next_sync = Instant::now() + self.settings.interval;
        loop {
            self.wait(next_sync).await;
            self.renew_if_due().await?;
            if next_sync <= Instant::now() {
                let wait = match self.sync().await {
                    Ok(()) => {
                        backoff.reset();
                        self.settings.interval
                    }
                    Err(Failure::Fatal(fatal)) => return Err(fatal),
                    Err(Failure::Passing(error)) => self.passing(&error, &mut backoff)?,
                };
                next_sync = Instant::now() + wait;
            }
            self.sign_due().await?;
            self.look().await;
        }
    }

    /// Waits for whatever is next: a sync, an SVID that is due, a caller whose SVIDs are signed on demand.
    async fn wait(&self, next_sync: Instant) {
        let now = Moment::now(&*self.clock);
        let mut next = next_sync.min(now.steady + LOOK_AGAIN);
        if self.started == Started::Yes {
            next = next.min(self.renewal.open_from(self.node.renew().instant(now)));
            let callers = self.callers();
            if let Some(due) = self.cache.next_due(now, &callers, false) {
                next = next.min(self.signing.open_from(due));
            }
            if let Some(due) = self.cache.next_due(now, &callers, true) {
                next = next.min(self.withdrawn.open_from(self.signing.open_from(due)));
            }
        }
        if let Some(save) = self.keeper.due() {
            next = next.min(save);
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.feed.wanted() => {}
        }
    }

    /// What the passing of time alone changes: SVIDs expire, callers leave, what is new goes to the disk.
    async fn look(&mut self) {
        let now = Moment::now(&*self.clock);
        let shed = self.cache.depends_on_callers() && self.cache.shed(&self.callers(), now);
        if shed || self.cache.valid(now.wall) != self.published {
            self.publish();
        }
        self.node.save_again().await;
        self.keeper.save_if_due(&self.cache).await;
        let stored = self.node.fault().or_else(|| self.keeper.fault());
        self.reports.storage(stored);
        self.reports.held(&self.cache, &self.node, now.wall);
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
                .call(remote::SYNC, |channel| {
                    remote::sync(channel, trust_domain, known)
                })
                .await;
            match result {
                Ok(synced) => break synced,
                Err(error) => {
                    self.reports.sync_failed(&error);
                    self.judge(error).await?;
                }
            }
        };
        self.unknown_since = None;
        self.reports.synced(began.elapsed());
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

    /// How long to wait after a failed sync; says so in the log. An SVID that has run out ends the waiting.
    fn passing(&self, source: &CallError, backoff: &mut Backoff) -> Result<Duration, Fatal> {
        self.check_expiry(source)?;
        let wait = backoff.next_wait();
        tracing::warn!(
            error = %source,
            advice = source.advice(),
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
            self.keeper.changed();
        }
    }

    fn sync_backoff(&self) -> Backoff {
        let interval = self.settings.interval;
        Backoff::new(interval, (8 * MINUTE).min(interval * 48)).factor(1.5)
    }
}
