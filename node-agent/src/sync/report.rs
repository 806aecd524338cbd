//! How things stand, told to health and to the metrics.

use std::time::Duration;

use countersign_daemon::health::{Check, Health, State};
use countersign_daemon::metrics::{Metric, count, float};
use countersign_identity::UnixTime;

use super::cache::Cache;
use crate::client::CallError;
use crate::metrics::{
    ENTRIES, FIRST_EXPIRY, NODE_EXPIRY, NODE_RENEWALS, SVIDS, SYNC_SECONDS, SYNCS, X509,
};
use crate::node::Node;

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
        ::metrics::counter!(SYNCS.name, "result" => "ok").increment(1);
        ::metrics::histogram!(SYNC_SECONDS.name).record(took.as_secs_f64());
    }

    pub(super) fn sync_failed(&self, error: &CallError) {
        ::metrics::counter!(SYNCS.name, "result" => "failed").increment(1);
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

    pub(super) fn held(&self, cache: &Cache, node: &Node, now: UnixTime) {
        count(ENTRIES, cache.entries().len());
        ::metrics::gauge!(SVIDS.name, "kind" => X509).set(float(cache.valid(now)));
        let at = |metric: Metric, at: Option<UnixTime>| {
            let seconds = at.map_or(0.0, |at| Duration::from_secs(at.as_secs()).as_secs_f64());
            ::metrics::gauge!(metric.name).set(seconds);
        };
        at(FIRST_EXPIRY, cache.first_expiry(now));
        at(
            NODE_EXPIRY,
            node.identity().map(|node| node.svid.not_after()),
        );
    }

    /// So many were signed for workloads, and of these so many in the place of an earlier one.
    pub(super) fn signed(&self, signed: usize, renewed: usize) {
        crate::metrics::signed(X509, signed, renewed);
    }

    pub(super) fn not_signed(&self, refused: usize) {
        crate::metrics::not_signed(X509, refused);
    }

    pub(super) fn renewed(&self) {
        ::metrics::counter!(NODE_RENEWALS.name, "result" => "ok").increment(1);
    }

    pub(super) fn renewal_failed(&self, _: &CallError) {
        ::metrics::counter!(NODE_RENEWALS.name, "result" => "failed").increment(1);
    }
}

enum Known {
    Nothing,
    Early,
    Synced,
}
