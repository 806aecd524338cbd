//! How things stand, told to health and to the metrics.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_runtime::health::{Check, Health, State};

use super::cache::Cache;
use super::feed::Feed;
use crate::client::CallError;

/// Where the owner reports.
#[derive(Clone, Debug)]
pub struct Reports {
    server: Check,
    storage: Check,
    /// Callers are served from what an earlier process kept.
    early: bool,
}

impl Reports {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(health: &Health) -> Self {
        let waiting = "the first sync with the server has not been done yet".to_owned();
        Self {
            server: health.check("server", State::NotReady(waiting)),
            storage: health.check("storage", State::Well),
            early: false,
        }
    }

    /// Callers are served what an earlier process kept, so many SVIDs.
    pub fn serving_early(&mut self, svids: usize) {
        self.early = true;
        self.server.set(State::Degraded(format!(
            "serving {svids} SVIDs that were kept on disk: the server has not answered yet"
        )));
    }

    pub(super) fn synced(&mut self, took: Duration) {
        self.early = false;
        self.server.set(State::Well);
        metrics::counter!("countersign_agent_sync_total", "result" => "ok").increment(1);
        metrics::histogram!("countersign_agent_sync_seconds").record(took.as_secs_f64());
    }

    pub(super) fn sync_failed(&self, error: &CallError) {
        metrics::counter!("countersign_agent_sync_total", "result" => "failed").increment(1);
        let reason = match self.server_state() {
            // Callers get UNAVAILABLE until the first sync.
            Known::Nothing => {
                self.server.set(State::NotReady(format!(
                    "no sync with the server yet: {error}"
                )));
                return;
            }
            Known::Early => "serving SVIDs that were kept on disk, as of an earlier process",
            Known::Synced => "serving what is known, as of the last sync",
        };
        self.server
            .set(State::Degraded(format!("{reason}: {error}")));
    }

    fn server_state(&self) -> Known {
        match (self.early, self.server.state()) {
            (true, _) => Known::Early,
            (false, Some(State::NotReady(_)) | None) => Known::Nothing,
            (false, _) => Known::Synced,
        }
    }

    pub(super) fn storage(&self, fault: Option<String>) {
        self.storage.set(fault.map_or(State::Well, State::Degraded));
    }

    pub(super) fn held(&self, cache: &Cache, feed: &Feed, now: UnixTime) {
        let gauge = |name: &'static str, value: usize| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a gauge is a float, and these counts are far below 2^52"
            )]
            metrics::gauge!(name).set(value as f64);
        };
        gauge("countersign_agent_entries", cache.entries().len());
        gauge("countersign_agent_svids", cache.valid(now));
        gauge("countersign_agent_streams", feed.subscribers());
    }

    pub(super) fn signed(&self, count: usize) {
        Self::signatures("ok", count);
    }

    pub(super) fn not_signed(&self, count: usize) {
        Self::signatures("failed", count);
    }

    fn signatures(result: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        metrics::counter!("countersign_agent_signatures_total", "result" => result)
            .increment(count);
    }

    pub(super) fn renewed(&self) {
        metrics::counter!("countersign_agent_renewals_total", "result" => "ok").increment(1);
    }

    pub(super) fn renewal_failed(&self, _: &CallError) {
        metrics::counter!("countersign_agent_renewals_total", "result" => "failed").increment(1);
    }
}

enum Known {
    Nothing,
    Early,
    Synced,
}
