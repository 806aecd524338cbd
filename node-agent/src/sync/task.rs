//! The one task that owns everything: it syncs, has SVIDs signed, renews the node's own, and publishes.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{KeyType, PrivateKey, SelectorSet, UnixTime, X509Svid};
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_runtime::SharedClock;
use countersign_runtime::backoff::Backoff;
use countersign_runtime::dial::Cause;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::BatchSize;
use super::cache::Cache;
use super::fatal::Fatal;
use super::feed::Feed;
use super::retry::Retry;
use super::{remote, rotation};
use crate::client::{CallError, ServerClient, TrustedBundles};
use crate::node::Node;
use crate::skew::Skew;
use crate::storage::StorageError;

/// What the task is told by the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often entries and bundles are asked for.
    pub interval: Duration,
    /// The keys of workloads.
    pub key_type: KeyType,
}

/// A failure that another try may mend, or one that ends the node agent.
enum Failure {
    Passing(CallError),
    Fatal(Fatal),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Fatal(error.into())
    }
}

/// The owner of cache, node identity and connection.
pub struct Syncer {
    client: ServerClient,
    bundles: TrustedBundles,
    node: Node,
    cache: Cache,
    feed: Feed,
    clock: SharedClock,
    settings: Settings,
    batch: BatchSize,
    signing: Retry,
    renewal: Retry,
    started: Started,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    No,
    Yes,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Syncer {
    /// The owner of an attested node. `bundles` is what `client` verifies by.
    ///
    /// # Errors
    /// The node has no identity, or no bundle.
    pub fn new(
        mut client: ServerClient,
        bundles: TrustedBundles,
        node: Node,
        feed: Feed,
        clock: SharedClock,
        settings: Settings,
    ) -> Result<Self, Fatal> {
        let (Some(identity), Some(bundle)) = (node.identity(), node.bundle()) else {
            return Err(Fatal::NoIdentity);
        };
        let bundle = Arc::new(bundle.clone());
        bundles.replace(Arc::clone(&bundle));
        client.identify(identity.svid.clone());
        Ok(Self {
            client,
            bundles,
            node,
            cache: Cache::new(bundle),
            feed,
            clock,
            settings,
            batch: BatchSize::default(),
            signing: Retry::new(Duration::from_millis(500), 4 * MINUTE),
            renewal: Retry::new(Duration::from_secs(5), 2 * MINUTE),
            started: Started::No,
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
                    tokio::time::sleep(wait).await;
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
        Ok(())
    }

    /// Keeps everything true until `stop` is cancelled.
    ///
    /// # Errors
    /// Why the node agent can't go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        stop.clone()
            .run_until_cancelled_owned(self.run_for_ever())
            .await
            .unwrap_or(Ok(()))
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
            if self.cache.has_expired(self.clock.now()) {
                self.publish();
            }
        }
    }

    /// Waits for whatever is next: a sync, an SVID that is due, a caller whose SVIDs are signed on demand.
    async fn wait(&self, next_sync: Instant) {
        let now = (self.clock.now(), Instant::now());
        let instant_of = |at: UnixTime| now.1 + at.since(now.0);
        let mut next = next_sync.min(self.renewal.open_from(instant_of(self.node.renew_at())));
        if let Some(due) = self.cache.next_due(&self.callers_waiting()) {
            next = next.min(self.signing.open_from(instant_of(due)));
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.feed.wanted() => {}
        }
    }

    async fn sync(&mut self) -> Result<(), Failure> {
        let known = self.cache.entries().clone();
        let known = &known;
        let trust_domain = self.client.trust_domain().clone();
        let trust_domain = &trust_domain;
        let synced = loop {
            let result = self
                .client
                .call(remote::SYNC, |channel| {
                    remote::sync(channel, trust_domain, known)
                })
                .await;
            match result {
                Ok(synced) => break synced,
                Err(error) => self.judge(error).await?,
            }
        };
        self.node.used().await?;
        let now = self.clock.now();
        let bundle = Arc::new(synced.bundle);
        if self.node.saw_bundle(&bundle, now).await? {
            tracing::info!(
                sequence_number = bundle.sequence_number,
                "Trust bundle updated"
            );
        }
        self.bundles.replace(Arc::clone(&bundle));
        self.cache.replace_entries(synced.entries);
        self.cache.replace_bundles(bundle, synced.federated, now);
        self.feed.synced(now);
        self.publish();
        Ok(())
    }

    /// What a failed call means (wire contract, C.6). `Ok` means: there was an older identity, try again with that.
    async fn judge(&mut self, error: CallError) -> Result<(), Failure> {
        match (error.denied(), error.cause()) {
            (Some(Reason::AgentBanned), _) => {
                self.node.forget().await?;
                Err(Failure::Fatal(Fatal::Banned))
            }
            (Some(Reason::Unknown), _) => Err(Failure::Passing(error)),
            (Some(reason), _) => {
                if self.started == Started::No && self.node.fall_back() {
                    tracing::info!(
                        "The server does not know the renewed SVID: using the one before it"
                    );
                    self.identify();
                    return Ok(());
                }
                self.node.forget().await?;
                Err(Failure::Fatal(Fatal::NotAccepted(reason)))
            }
            (None, Some(Cause::UnknownAuthority)) => Err(Failure::Fatal(Fatal::UnknownAuthority {
                address: self.client.address().to_owned(),
                source: error,
            })),
            (None, _) => Err(Failure::Passing(error)),
        }
    }

    fn identify(&mut self) {
        if let Some(identity) = self.node.identity() {
            self.client.identify(identity.svid.clone());
        }
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

    /// An SVID that has run out can't be renewed any more.
    fn check_expiry(&self, error: &CallError) -> Result<(), Fatal> {
        let expired = self
            .node
            .identity()
            .map(|identity| identity.svid.not_after());
        match expired.filter(|at| *at < self.clock.now()) {
            None => Ok(()),
            Some(expired) => Err(Fatal::Expired {
                expired,
                reason: error.to_string(),
            }),
        }
    }

    async fn renew_if_due(&mut self) -> Result<(), Fatal> {
        if self.clock.now() < self.node.renew_at() || !self.renewal.is_open() {
            return Ok(());
        }
        match self.renew().await {
            Ok(()) => {
                self.renewal.succeeded();
                let (now, end) = (self.clock.now(), self.node.identity());
                let end = end.map_or(now, |identity| identity.svid.not_after());
                self.renewal.pause(rotation::earliest(end, now).since(now));
                Ok(())
            }
            Err(Failure::Fatal(fatal)) => Err(fatal),
            Err(Failure::Passing(source)) => {
                self.check_expiry(&source)?;
                let wait = self.renewal.failed();
                tracing::warn!(
                    error = %source,
                    advice = source.advice(),
                    retry_in_seconds = wait.as_secs(),
                    "Could not renew this node's SVID yet"
                );
                Ok(())
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        let unusable = |reason: String| {
            Failure::Passing(CallError::Answer {
                method: remote::RENEW,
                reason,
            })
        };
        let key = PrivateKey::generate(KeyType::EcP256).map_err(|e| unusable(e.to_string()))?;
        let result = self
            .client
            .call(remote::RENEW, |channel| remote::renew(channel, key.clone()))
            .await;
        let svid = match result {
            Ok(svid) => svid,
            Err(error) => return self.judge(error).await,
        };
        let expires_at = svid.not_after();
        if self
            .node
            .identity()
            .is_some_and(|identity| identity.svid.id() != svid.id())
        {
            return Err(unusable(format!(
                "renewed as {}, which is another node",
                svid.id()
            )));
        }
        // On disk before its first use: from then on the server refuses the old one.
        self.node.renewed(svid).await?;
        self.identify();
        tracing::info!(%expires_at, "Renewed this node's SVID");
        Ok(())
    }

    /// Has all due SVIDs signed, batch by batch, and publishes after each.
    async fn sign_due(&mut self) -> Result<(), Fatal> {
        if !self.signing.is_open() {
            return Ok(());
        }
        let mut due = self.cache.due(self.clock.now(), &self.callers_waiting());
        while !due.is_empty() {
            let rest = due.split_off(self.batch.get().min(due.len()));
            let batch = std::mem::replace(&mut due, rest);
            match self.sign(batch).await {
                Ok(Signed::All) => self.batch.succeeded(),
                Ok(Signed::NotAll) => {
                    self.batch.succeeded();
                    self.signing.failed();
                }
                Err(Failure::Fatal(fatal)) => return Err(fatal),
                Err(Failure::Passing(error)) => {
                    self.batch.failed();
                    let wait = self.signing.failed();
                    tracing::warn!(
                        %error,
                        advice = error.advice(),
                        retry_in_milliseconds = wait.as_millis(),
                        "Could not have SVIDs signed yet"
                    );
                    return Ok(());
                }
            }
        }
        if self.signing.is_open() {
            self.signing.succeeded();
        }
        Ok(())
    }

    async fn sign(&mut self, batch: Vec<Arc<super::AuthorizedEntry>>) -> Result<Signed, Failure> {
        let unusable = |reason: String| {
            Failure::Passing(CallError::Answer {
                method: remote::SIGN,
                reason,
            })
        };
        let key_type = self.settings.key_type;
        let requests =
            tokio::task::spawn_blocking(move || remote::signing_requests(batch, key_type))
                .await
                .map_err(|e| unusable(e.to_string()))?
                .map_err(|e| unusable(e.to_string()))?;
        let answer = self
            .client
            .call(remote::SIGN, |channel| remote::sign(channel, &requests))
            .await;
        let results = match answer {
            Ok(results) => results,
            Err(error) => return self.judge(error).await.map(|()| Signed::NotAll),
        };
        let mut signed = Signed::All;
        for (request, result) in requests.iter().zip(results) {
            match result {
                Ok(svid) => {
                    self.check_clock(&svid)?;
                    tracing::debug!(
                        spiffe_id = %svid.id(), entry = %request.entry.id, expires_at = %svid.not_after(), "SVID signed"
                    );
                    let now = self.clock.now();
                    self.cache
                        .hold(&request.entry, svid, rotation::random_jitter(), now);
                }
                Err(error) => {
                    signed = Signed::NotAll;
                    tracing::warn!(
                        spiffe_id = %request.entry.spiffe_id, entry = %request.entry.id, error, "SVID not signed"
                    );
                }
            }
        }
        self.publish();
        Ok(signed)
    }

    /// At the start a wrong clock ends the node agent, with a message; later a service that works is not stopped for it.
    fn check_clock(&self, svid: &X509Svid) -> Result<(), Failure> {
        match (Skew::of_new(svid, self.clock.now()), self.started) {
            (None, _) => Ok(()),
            (Some(skew), Started::No) => Err(Failure::Fatal(Fatal::Clock(skew))),
            (Some(skew), Started::Yes) => {
                tracing::warn!("{skew}");
                Ok(())
            }
        }
    }

    /// The callers for whom SVIDs are signed on demand.
    fn callers_waiting(&self) -> Vec<SelectorSet> {
        if self.cache.signs_on_demand() {
            self.feed.subscribed()
        } else {
            Vec::new()
        }
    }

    fn publish(&self) {
        self.feed.publish(self.cache.snapshot(self.clock.now()));
    }

    fn sync_backoff(&self) -> Backoff {
        let interval = self.settings.interval;
        Backoff::new(interval, (8 * MINUTE).min(interval * 48)).factor(1.5)
    }
}

enum Signed {
    All,
    NotAll,
}
