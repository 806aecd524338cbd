//! The life cycle of the node's own identity: stored before first use, renewed in time, and removed when the server no
//! longer accepts it.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Bundle, UnixTime, X509Svid};
use countersign_transport::error::Chain;
use tokio::time::Instant;

use crate::node_attestor::Attested;
use crate::rotation::{self, Due, Moment, Rotation};
use crate::storage::{NodeIdentity, NodeState, Storage, StorageError};
use crate::svid::UntaintedAuthorities;

/// Where the identity is stored.
#[derive(Clone, Debug)]
pub(crate) enum NodeStorage {
    /// In a file.
    Disk(Arc<Storage>),
    /// Nowhere: each start needs a new attestation (KeyManager "memory").
    Memory,
}

/// The node's identity, in memory and on disk. Owned by one task.
///
/// A failed write does not stop a working node agent: it is retried, and [`Node::fault`] reports it.
#[derive(Debug)]
pub(crate) struct Node {
    storage: NodeStorage,
    rotation: Rotation,
    state: NodeState,
    /// The identity in use, and older ones to fall back to if the server refuses it.
    current: Option<NodeIdentity>,
    others: Vec<NodeIdentity>,
    renew: Due,
    fault: Option<Fault>,
}

/// The identity in use is not on disk.
#[derive(Debug)]
struct Fault {
    text: String,
    again: Instant,
}

/// Backoff after a failed write.
const FAULT_PAUSE: Duration = Duration::from_secs(30);
/// A renewed identity that can't be stored is used anyway once less than this fraction (a quarter) of the old one's
/// lifetime is left.
const LAST_PART: u32 = 4;

impl Node {
    /// The stored identity of an earlier process, if it has not expired.
    #[must_use]
    pub(crate) fn new(
        storage: NodeStorage,
        state: NodeState,
        rotation: Rotation,
        now: Moment,
    ) -> Self {
        let mut others = state.usable_at(now.wall);
        others.reverse();
        let mut node = Self {
            storage,
            rotation,
            state,
            current: None,
            others,
            renew: Due::at(UnixTime::default(), now),
            fault: None,
        };
        if let Some(identity) = node.others.pop() {
            node.take(identity, now);
        }
        node
    }

    /// The identity in use; `None` means that the node has to be attested.
    #[must_use]
    pub(crate) const fn identity(&self) -> Option<&NodeIdentity> {
        self.current.as_ref()
    }

    /// The last known bundle.
    #[must_use]
    pub(crate) const fn bundle(&self) -> Option<&Bundle> {
        self.state.bundle.as_ref()
    }

    /// When the stored identity expired, if that is why there is no usable one.
    #[must_use]
    pub(crate) fn expired(&self) -> Option<UnixTime> {
        self.state
            .identities()
            .map(|identity| identity.svid.not_after())
            .max()
    }

    /// Whether there is an older identity than the one in use.
    pub(crate) const fn has_older_svid(&self) -> bool {
        !self.others.is_empty()
    }

    /// Falls back to the next older identity, after the server refused the one in use. Returns whether there was one.
    pub(crate) fn fall_back(&mut self, now: Moment) -> bool {
        match self.others.pop() {
            Some(identity) => {
                self.take(identity, now);
                true
            }
            None => false,
        }
    }

    /// Adopts a newly attested identity, even if it can't be stored: the server accepts no older one any more.
    pub(crate) async fn attested(&mut self, attested: Attested, now: Moment) {
        self.state.attested(attested.identity.clone());
        self.state.bundle = Some(attested.bundle);
        self.others.clear();
        self.take(attested.identity, now);
        self.save().await;
    }

    /// Adopts a renewed identity, after it was written to disk: if the process were killed after the first use of an
    /// identity that is not on disk, it would restart with one that the server refuses. If it can't be written, and the
    /// old one is about to expire, using it anyway is the lesser evil.
    ///
    /// # Errors
    /// It could not be stored: the old one stays in use.
    pub(crate) async fn renewed(
        &mut self,
        svid: X509Svid,
        now: Moment,
    ) -> Result<(), StorageError> {
        let old = self.current.as_ref();
        let reattestable = old.is_some_and(|identity| identity.reattestable);
        let last_part = old.is_none_or(|identity| {
            let (from, end) = (identity.svid.not_before(), identity.svid.not_after());
            end.since(now.wall) < end.since(from) / LAST_PART
        });
        let identity = NodeIdentity { svid, reattestable };
        let before = self.state.clone();
        self.state.renewed(identity.clone());
        if let Err(error) = self.try_save().await {
            self.failed(&error);
            if !last_part {
                self.state = before;
                return Err(error);
            }
        }
        self.take(identity, now);
        Ok(())
    }

    /// The server has accepted the identity in use: older ones are dropped.
    pub(crate) async fn used(&mut self) {
        let Some(current) = &self.current else {
            return;
        };
        self.others.clear();
        if self.state.used(&current.svid) {
            self.save().await;
        }
    }

    /// Records a bundle. Returns whether it was a new one.
    pub(crate) async fn saw_bundle(&mut self, bundle: &Bundle, now: Moment) -> bool {
        if self.state.bundle.as_ref() == Some(bundle) {
            return false;
        }
        if self.current.as_ref().is_some_and(|identity| {
            !UntaintedAuthorities::of(bundle).vouch_for(&identity.svid, now.wall)
        }) {
            tracing::info!(
                "The authority of this node's SVID is being withdrawn: renewing at once"
            );
            self.renew = Due::at(now.wall, now);
        }
        self.state.bundle = Some(bundle.clone());
        self.save().await;
        true
    }

    /// Removes the identity from disk, because the server no longer accepts the node.
    ///
    /// # Errors
    /// The file could not be written.
    pub(crate) async fn forget(&mut self) -> Result<(), StorageError> {
        self.state.forget_identities();
        self.current = None;
        self.others.clear();
        self.try_save().await
    }

    /// When the identity in use is due for renewal.
    #[must_use]
    pub(crate) const fn renew(&self) -> Due {
        self.renew
    }

    /// Why the identity in use is not on disk.
    #[must_use]
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.as_ref().map(|fault| fault.text.clone())
    }

    /// Retries a failed write.
    pub(crate) async fn save_again(&mut self) {
        if self
            .fault
            .as_ref()
            .is_some_and(|fault| fault.again <= Instant::now())
        {
            self.save().await;
        }
    }

    fn take(&mut self, identity: NodeIdentity, now: Moment) {
        let svid = &identity.svid;
        let at = self.rotation.renew_at(
            svid.not_before(),
            svid.not_after(),
            rotation::random_jitter(),
        );
        self.renew = Due::at(at, now);
        self.current = Some(identity);
    }

    async fn save(&mut self) {
        match self.try_save().await {
            Ok(()) => self.fault = None,
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &StorageError) {
        let text = Chain(error).to_string();
        if self.fault.is_none() {
            tracing::error!(
                error = text,
                "This node's identity can't be kept on disk: trying again"
            );
        }
        let again = Instant::now() + FAULT_PAUSE;
        self.fault = Some(Fault { text, again });
    }

    async fn try_save(&self) -> Result<(), StorageError> {
        let NodeStorage::Disk(storage) = &self.storage else {
            return Ok(());
        };
        let (storage, state) = (Arc::clone(storage), self.state.clone());
        match tokio::task::spawn_blocking(move || storage.save(&state)).await {
            Ok(result) => result,
            // The runtime is shutting down.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_ca::{TestCa, trust_domain};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn moment(wall: UnixTime) -> Moment {
        Moment {
            wall,
            steady: Instant::now(),
        }
    }

    fn svid(ca: &TestCa, now: UnixTime) -> X509Svid {
        ca.issue(
            &trust_domain()
                .id_with_path("/spire/agent/join_token/t")
                .unwrap(),
            Duration::from_secs(3600),
            now,
        )
    }

    fn attested(svid: X509Svid, ca: &TestCa) -> Attested {
        Attested {
            identity: NodeIdentity {
                svid,
                reattestable: false,
            },
            bundle: ca.bundle(),
        }
    }

    fn on_disk(directory: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(directory.join("agent-state.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        ["svid", "renewed_svid"]
            .iter()
            .filter(|key| value.get(**key).is_some())
            .map(ToString::to_string)
            .collect()
    }

    fn start(directory: &std::path::Path, now: UnixTime) -> Node {
        let (storage, state) = loop {
            match Storage::open(directory, &trust_domain()) {
                // A child that another test is starting holds our locks from its fork to its exec.
                Err(StorageError::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        Node::new(
            NodeStorage::Disk(Arc::new(storage)),
            state,
            Rotation::default(),
            moment(now),
        )
    }

    fn serial(node: &Node) -> String {
        node.identity().unwrap().svid.leaf().serial.clone()
    }

    /// Every moment at which the process can be killed while it renews, and what the next process does then.
    #[tokio::test]
    async fn an_interrupted_renewal_leaves_a_usable_identity() {
        let directory = tempfile::tempdir().unwrap();
        let ca = TestCa::new(NOW);
        let (old, new) = (svid(&ca, NOW), svid(&ca, NOW));
        let mut node = start(directory.path(), NOW);
        node.attested(attested(old.clone(), &ca), moment(NOW)).await;
        node.used().await;
        drop(node);

        // Killed before the new one is on disk: the old one is used, and the server never saw another.
        let mut node = start(directory.path(), NOW);
        assert_eq!(serial(&node), old.leaf().serial);
        node.renewed(new.clone(), moment(NOW)).await.unwrap();
        assert_eq!(on_disk(directory.path()), ["svid", "renewed_svid"]);
        drop(node);

        // Killed after that: the new one first; if the server did not keep it, the old one.
        let mut node = start(directory.path(), NOW);
        assert_eq!(serial(&node), new.leaf().serial);
        assert!(node.fall_back(moment(NOW)));
        assert_eq!(serial(&node), old.leaf().serial);
        assert!(!node.fall_back(moment(NOW)));
        drop(node);

        // Used: only the new one is left.
        let mut node = start(directory.path(), NOW);
        node.used().await;
        assert_eq!(on_disk(directory.path()), ["svid"]);
        drop(node);
        assert_eq!(serial(&start(directory.path(), NOW)), new.leaf().serial);
    }

    #[tokio::test]
    async fn what_has_expired_or_was_forgotten_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let ca = TestCa::new(NOW);
        let mut node = start(directory.path(), NOW);
        assert!(node.identity().is_none() && node.expired().is_none());
        node.attested(attested(svid(&ca, NOW), &ca), moment(NOW))
            .await;
        drop(node);

        let end = NOW.after(Duration::from_secs(3600));
        let mut late = start(directory.path(), end);
        assert!(late.identity().is_none());
        assert_eq!(late.expired(), Some(end));
        assert!(late.bundle().is_some());
        late.forget().await.unwrap();
        drop(late);
        assert!(start(directory.path(), NOW).identity().is_none());
    }

    #[tokio::test]
    async fn a_withdrawn_authority_makes_the_renewal_due_at_once() {
        let ca = TestCa::new(NOW);
        let mut node = Node::new(
            NodeStorage::Memory,
            NodeState::empty(trust_domain()),
            Rotation::default(),
            moment(NOW),
        );
        node.attested(attested(svid(&ca, NOW), &ca), moment(NOW))
            .await;
        assert!(!node.renew().has_come(moment(NOW)));
        assert!(
            !node.saw_bundle(&ca.bundle(), moment(NOW)).await,
            "the same as before"
        );
        let mut tainted = ca.bundle();
        tainted.x509_authorities[0] = tainted.x509_authorities[0].with_tainted(true);
        assert!(node.saw_bundle(&tainted, moment(NOW)).await);
        assert!(node.renew().has_come(moment(NOW)));
    }
}
