//! The metrics that are read from state at an interval, and those that must be there from the start.

use std::time::Duration;

use countersign_ca::authority::{Authority, Kind, Purpose};
use countersign_daemon::health::Health;
use countersign_daemon::metrics::count;
use countersign_identity::UnixTime;

use crate::index::{EntryFilter, Index, NodeFilter};
use crate::metrics::{
    AUTHORITY_EXPIRY, BUILD, BUNDLES, COMMITS, ENTRIES, FEDERATION, NODES, READY, ROTATION_FAILURES,
};

/// Sets counters with known labels to zero, so that monitoring sees their first increase as one.
pub(super) fn begin() {
    metrics::gauge!(BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for purpose in Purpose::ALL {
        purpose.count(0, 0);
    }
    metrics::counter!(ROTATION_FAILURES.name).increment(0);
    for result in ["ok", "failed"] {
        metrics::counter!(COMMITS.name, "result" => result).increment(0);
        metrics::counter!(FEDERATION.name, "result" => result).increment(0);
    }
}

/// Sets the gauges to the state as it is now.
pub(super) fn gauges(index: &Index, authority: &Authority, health: &Health) {
    count(ENTRIES, index.count_entries(&EntryFilter::default()));
    count(NODES, index.count_nodes(&NodeFilter::default()));
    count(BUNDLES, index.count_bundles());
    count(READY, usize::from(health.is_ready()));
    for kind in [Kind::X509, Kind::Jwt] {
        let active = authority
            .states(kind)
            .and_then(|states| states.active.expires_at);
        let seconds = active.map_or(0, UnixTime::as_secs);
        metrics::gauge!(AUTHORITY_EXPIRY.name, "kind" => kind.label())
            .set(Duration::from_secs(seconds).as_secs_f64());
    }
}
