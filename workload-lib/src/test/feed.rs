//! A mesh whose SVIDs and bundles are made elsewhere: for this project's own tests, which need bad ones too.

use std::sync::Arc;

use countersign_identity::{BundleSet, X509Svid};
use countersign_mesh::Policy;
use countersign_transport::SharedClock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::event::EventLog;
use crate::mesh::Mesh;
use crate::policy::{self, InForce};
use crate::source::{BadOffer, Writer};
use crate::svid::SvidPicker;

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FeedError(BadOffer);

/// Stands in for the node agent: what it is fed is checked as if it came from there.
pub struct Feed(Writer);

impl Feed {
    /// Hands over an SVID and all bundles.
    ///
    /// # Errors
    /// Why they were not taken over.
    pub fn send(&mut self, svid: X509Svid, bundles: BundleSet) -> Result<(), FeedError> {
        self.0.take(svid, bundles).map_err(FeedError)
    }

    /// Withdraws the identity.
    pub fn withdraw(&self) {
        self.0.withdraw("the test says so");
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// A mesh with this identity and policy, and the feed that changes the identity.
///
/// # Errors
/// Why the identity cannot be used.
pub fn mesh(
    svid: X509Svid,
    bundles: BundleSet,
    policy: Policy,
    clock: SharedClock,
) -> Result<(Mesh, Feed), FeedError> {
    fed(svid, bundles, policy::given(policy).subscribe(), clock)
}

pub(super) fn fed(
    svid: X509Svid,
    bundles: BundleSet,
    policy: watch::Receiver<InForce>,
    clock: SharedClock,
) -> Result<(Mesh, Feed), FeedError> {
    let events = EventLog::new();
    let (writer, reader) = Writer::new(SvidPicker::First, Arc::clone(&clock), events.clone());
    let mesh = Mesh::new(reader, policy, clock, events, CancellationToken::new());
    let mut feed = Feed(writer);
    feed.send(svid, bundles)?;
    Ok((mesh, feed))
}
