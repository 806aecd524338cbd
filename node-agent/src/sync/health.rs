//! The syncer's reports to the health check and to the metrics.

use std::time::Duration;

use countersign_daemon::health::{Check, Health, State};
use countersign_daemon::metrics::{Metric, count, float};
use countersign_identity::UnixTime;
use countersign_transport::error::Chain;

use super::cache::SvidCache;
use crate::client::CallError;
use crate::metrics::{
    ENTRIES, FIRST_EXPIRY, NODE_EXPIRY, NODE_RENEWALS, SVIDS, SYNC_SECONDS, SYNCS, X509,
};
use crate::node::Node;

/// Reports how the sync is doing.
#[derive(Clone, Debug)]
pub(crate) struct SyncHealth {
    server: Check,
    storage: Check,
    /// Callers are served the SVIDs of an earlier process.
    early: bool,
}

impl SyncHealth {
    /// Nothing is known yet.
    #[must_use]
    pub(crate) fn new(health: &Health) -> Self {
        let waiting = "the first sync with the server has not been done yet".to_owned();
        Self {
            server: health.check("server", State::NotReady(waiting)),
            storage: health.check("storage", State::Well),
            early: false,
        }
    }

    /// Callers are served `svids` SVIDs of an earlier process.
    pub(crate) fn serving_early(&mut self, svids: usize) {
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
            Serving::Nothing => {
                self.server.set(State::NotReady(format!(
                    "no sync with the server yet: {}",
                    Chain(error)
                )));
                return;
            }
            Serving::Restored => "serving SVIDs that were kept on disk, as of an earlier process",
            Serving::Synced => "serving what is known, as of the last sync",
        };
        self.server
            .set(State::Degraded(format!("{reason}: {}", Chain(error))));
    }

    fn server_state(&self) -> Serving {
        match (self.early, self.server.state()) {
            (true, _) => Serving::Restored,
            (false, Some(State::NotReady(_)) | None) => Serving::Nothing,
            (false, _) => Serving::Synced,
        }
    }

    pub(super) fn storage(&self, fault: Option<String>) {
        self.storage.set(fault.map_or(State::Well, State::Degraded));
    }

    pub(super) fn cached(&self, cache: &SvidCache, node: &Node, now: UnixTime) {
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

    pub(super) fn renewed(&self) {
        ::metrics::counter!(NODE_RENEWALS.name, "result" => "ok").increment(1);
    }

    pub(super) fn renewal_failed(&self) {
        ::metrics::counter!(NODE_RENEWALS.name, "result" => "failed").increment(1);
    }
}

enum Serving {
    Nothing,
    Restored,
    Synced,
}
