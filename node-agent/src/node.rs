//! The node's own identity over its life: kept before it is used, renewed in time, and forgotten when the server says so.

use std::sync::Arc;

use countersign_identity::{Bundle, UnixTime, X509Svid};

use crate::attest::Attested;
use crate::storage::{NodeIdentity, State, Storage, StorageError};
use crate::sync::cache::is_sound;
use crate::sync::rotation;

/// Where the identity outlives the process.
#[derive(Clone, Debug)]
pub enum Keep {
    /// In a file.
    Disk(Arc<Storage>),
    /// Nowhere: each start needs a new attestation (KeyManager "memory").
    Memory,
}

/// The node's identity and what is on disk of it. Owned by one task.
#[derive(Debug)]
pub struct Node {
    keep: Keep,
    state: State,
    /// The identity in use, and those to fall back to if the server does not know it.
    current: Option<NodeIdentity>,
    others: Vec<NodeIdentity>,
    renew_at: UnixTime,
}

impl Node {
    /// What the last process left, as far as it is still good.
    #[must_use]
    pub fn new(keep: Keep, state: State, now: UnixTime) -> Self {
        let mut others = state.usable_at(now);
        others.reverse();
        let mut node = Self {
            keep,
            state,
            current: None,
            others,
            renew_at: UnixTime::default(),
        };
        node.fall_back();
        node
    }

    /// The identity in use; `None` means that the node has to be attested.
    #[must_use]
    pub const fn identity(&self) -> Option<&NodeIdentity> {
        self.current.as_ref()
    }

    /// The bundle as it was last seen.
    #[must_use]
    pub const fn bundle(&self) -> Option<&Bundle> {
        self.state.bundle.as_ref()
    }

    /// When an identity that is on disk expired, if that is why there is none to use.
    #[must_use]
    pub fn expired(&self) -> Option<UnixTime> {
        self.state
            .identities()
            .map(|identity| identity.svid.not_after())
            .max()
    }

    /// Takes the next older identity, after the server refused the one in use. Says whether there was one.
    pub fn fall_back(&mut self) -> bool {
        match self.others.pop() {
            Some(identity) => {
                self.take(identity);
                true
            }
            None => false,
        }
    }

    /// The node was attested.
    ///
    /// # Errors
    /// The new identity could not be kept.
    pub async fn attested(&mut self, attested: Attested) -> Result<(), StorageError> {
        self.state.attested(attested.identity.clone());
        self.state.bundle = Some(attested.bundle);
        self.others.clear();
        self.take(attested.identity);
        self.save().await
    }

    /// The identity was renewed. It is on disk when this returns, and only then may it be used.
    ///
    /// # Errors
    /// It could not be kept: then the old one stays in use.
    pub async fn renewed(&mut self, svid: X509Svid) -> Result<(), StorageError> {
        let reattestable = self
            .current
            .as_ref()
            .is_some_and(|identity| identity.reattestable);
        let identity = NodeIdentity { svid, reattestable };
        let before = self.state.clone();
        self.state.renewed(identity.clone());
        if let Err(error) = self.save().await {
            self.state = before;
            return Err(error);
        }
        self.take(identity);
        Ok(())
    }

    /// The server has answered to the identity in use.
    ///
    /// # Errors
    /// That could not be noted on disk. Harmless: both identities are tried at the next start.
    pub async fn used(&mut self) -> Result<(), StorageError> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        self.others.clear();
        if self.state.used(&current.svid) {
            return self.save().await;
        }
        Ok(())
    }

    /// Notes a bundle. Says whether it was a new one.
    ///
    /// # Errors
    /// It could not be kept.
    pub async fn saw_bundle(
        &mut self,
        bundle: &Bundle,
        now: UnixTime,
    ) -> Result<bool, StorageError> {
        if self.state.bundle.as_ref() == Some(bundle) {
            return Ok(false);
        }
        if self
            .current
            .as_ref()
            .is_some_and(|identity| !is_sound(&identity.svid, bundle, now))
        {
            tracing::info!(
                "The authority of this node's SVID is being withdrawn: renewing at once"
            );
            self.renew_at = now;
        }
        self.state.bundle = Some(bundle.clone());
        self.save().await?;
        Ok(true)
    }

    /// The server does not accept the node any more: nothing of its identity stays on disk.
    ///
    /// # Errors
    /// The file could not be written.
    pub async fn forget(&mut self) -> Result<(), StorageError> {
        self.state.forget_identities();
        self.current = None;
        self.others.clear();
        self.save().await
    }

    /// When the identity in use is to be renewed.
    #[must_use]
    pub const fn renew_at(&self) -> UnixTime {
        self.renew_at
    }

    fn take(&mut self, identity: NodeIdentity) {
        let svid = &identity.svid;
        self.renew_at = rotation::renew_at(
            svid.not_before(),
            svid.not_after(),
            rotation::random_jitter(),
        );
        self.current = Some(identity);
    }

    async fn save(&self) -> Result<(), StorageError> {
        let Keep::Disk(storage) = &self.keep else {
            return Ok(());
        };
        let (storage, state) = (Arc::clone(storage), self.state.clone());
        match tokio::task::spawn_blocking(move || storage.save(&state)).await {
            Ok(result) => result,
            // The runtime is going down, and the process with it.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::test_ca::{TestCa, trust_domain};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn svid(ca: &TestCa, now: UnixTime) -> X509Svid {
        ca.issue(
            &trust_domain()
                .id_with_path("/spire/agent/join_token/t")
                .unwrap(),
            Duration::from_secs(3600),
            now,
        )
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
        Node::new(Keep::Disk(Arc::new(storage)), state, now)
    }

    fn serial(node: &Node) -> String {
        node.identity().unwrap().svid.leaf().serial.clone()
    }

    /// Every moment at which the process can be killed while it renews, and what the next process does then.
    #[tokio::test]
    async fn a_renewal_that_is_cut_off_anywhere_leaves_an_identity_that_the_server_accepts() {
        let directory = tempfile::tempdir().unwrap();
        let ca = TestCa::new(NOW);
        let (old, new) = (svid(&ca, NOW), svid(&ca, NOW));
        let mut node = start(directory.path(), NOW);
        let identity = NodeIdentity {
            svid: old.clone(),
            reattestable: false,
        };
        node.attested(Attested {
            identity,
            bundle: ca.bundle(),
        })
        .await
        .unwrap();
        node.used().await.unwrap();
        drop(node);

        // Killed before the new one is on disk: the old one is used, and the server never saw another.
        let mut node = start(directory.path(), NOW);
        assert_eq!(serial(&node), old.leaf().serial);
        node.renewed(new.clone()).await.unwrap();
        assert_eq!(on_disk(directory.path()), ["svid", "renewed_svid"]);
        drop(node);

        // Killed after that: the new one first; if the server did not keep it, the old one.
        let mut node = start(directory.path(), NOW);
        assert_eq!(serial(&node), new.leaf().serial);
        assert!(node.fall_back());
        assert_eq!(serial(&node), old.leaf().serial);
        assert!(!node.fall_back());
        drop(node);

        // Used: only the new one is left.
        let mut node = start(directory.path(), NOW);
        node.used().await.unwrap();
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
        let identity = NodeIdentity {
            svid: svid(&ca, NOW),
            reattestable: false,
        };
        node.attested(Attested {
            identity,
            bundle: ca.bundle(),
        })
        .await
        .unwrap();
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
        let mut node = Node::new(Keep::Memory, State::empty(trust_domain()), NOW);
        let identity = NodeIdentity {
            svid: svid(&ca, NOW),
            reattestable: false,
        };
        node.attested(Attested {
            identity,
            bundle: ca.bundle(),
        })
        .await
        .unwrap();
        assert!(node.renew_at() > NOW);
        assert!(
            !node.saw_bundle(&ca.bundle(), NOW).await.unwrap(),
            "the same as before"
        );
        let mut tainted = ca.bundle();
        tainted.x509_authorities[0] = tainted.x509_authorities[0].with_tainted(true);
        assert!(node.saw_bundle(&tainted, NOW).await.unwrap());
        assert_eq!(node.renew_at(), NOW);
    }
}
