//! Attested nodes.

use countersign_identity::node::Credential;
use countersign_identity::{Entry, Node, SpiffeId};

use super::backend::{Commit, Expect, Key, Seq, Table};
use super::record::Stored as _;
use super::{MAX_RETRIES, Record, Store, StoreError, Written, entry};

/// Why a node was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// There is no such node.
    #[error("no such node")]
    Missing,
    /// An admin banned it.
    #[error("the node is banned")]
    Banned,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Notes that a node was attested: a new node as it is given; of one that was there the type and the version stay.
    ///
    /// # Errors
    /// The node is banned, or the store failed.
    pub async fn node_attested(&self, node: &Node) -> Result<Written<Node>, NodeError> {
        for _ in 0..=MAX_RETRIES {
            let found = self.read::<Node>(&node.key()).await?;
            let (new, created, expect) = match found {
                None => (node.clone(), Seq::ZERO, Expect::Absent),
                Some((old, _)) if old.value.is_banned() => return Err(NodeError::Banned),
                Some((old, version)) => {
                    let new = Node {
                        attestation_type: old.value.attestation_type,
                        agent_version: old.value.agent_version,
                        ..node.clone()
                    };
                    (new, old.created, Expect::Version(version))
                }
            };
            let commit = Commit {
                expect: vec![(new.key(), expect)],
                put: vec![(new.key(), new.value(created))],
                delete: Vec::new(),
            };
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Written { value: new, seq });
            }
        }
        Err(StoreError::Busy {
            doing: "note an attested node",
        }
        .into())
    }

    /// Keeps a renewed SVID of a node as pending, until its first use.
    ///
    /// # Errors
    /// The node is unknown or banned, or the store failed.
    pub async fn node_renewed(
        &self,
        id: &SpiffeId,
        pending: Credential,
    ) -> Result<Written<Node>, NodeError> {
        self.node_edit(id, |node| {
            if node.is_banned() {
                return Err(NodeError::Banned);
            }
            node.pending = Some(pending.clone());
            Ok(())
        })
        .await
    }

    /// Makes the pending SVID the current one, if it still has this serial number. Either way the node as it is now.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_promoted(
        &self,
        id: &SpiffeId,
        serial: &str,
    ) -> Result<Written<Node>, NodeError> {
        self.node_edit(id, |node| {
            if node
                .pending
                .as_ref()
                .is_some_and(|pending| pending.serial == serial)
            {
                node.current = node.pending.take();
            }
            Ok(())
        })
        .await
    }

    /// Bans a node: none of its SVIDs counts from now on, and it can't attest again until it is deleted.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_banned(&self, id: &SpiffeId) -> Result<Written<Node>, NodeError> {
        self.node_edit(id, |node| {
            node.current = None;
            node.pending = None;
            Ok(())
        })
        .await
    }

    /// Notes which version a node agent has.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_versioned(
        &self,
        id: &SpiffeId,
        version: &str,
    ) -> Result<Written<Node>, NodeError> {
        self.node_edit(id, |node| {
            version.clone_into(&mut node.agent_version);
            Ok(())
        })
        .await
    }

    /// Forgets a node that is as `due` says, and with it the entry that came with its join token, if there is one. Without
    /// a commit it stayed.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_deleted(
        &self,
        id: &SpiffeId,
        alias: Option<&Entry>,
        due: &(dyn Fn(&Node) -> bool + Sync),
    ) -> Result<Option<Seq>, NodeError> {
        let key = Key::new(Table::Node, id.as_str());
        for _ in 0..=MAX_RETRIES {
            let (node, version) = self.read::<Node>(&key).await?.ok_or(NodeError::Missing)?;
            if !due(&node.value) {
                return Ok(None);
            }
            let mut commit = Commit {
                expect: vec![(key.clone(), Expect::Version(version))],
                put: Vec::new(),
                delete: vec![key.clone()],
            };
            if let Some(alias) = alias
                && let Some(removal) = self.entry_removal(alias).await?
            {
                commit.expect.extend(removal.expect);
                commit.put.extend(removal.put);
                commit.delete.extend(removal.delete);
            }
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Some(seq));
            }
        }
        Err(StoreError::Busy {
            doing: "delete a node",
        }
        .into())
    }

    /// The commit that removes an entry as it is now; `None` if it has another parent by now, or is gone.
    async fn entry_removal(&self, alias: &Entry) -> Result<Option<Commit>, StoreError> {
        let found = self.read::<Entry>(&alias.key()).await?;
        let Some((Record { value: now, .. }, version)) = found else {
            return Ok(None);
        };
        if now.parent_id != alias.parent_id || now.selectors != alias.selectors {
            return Ok(None);
        }
        let similar = self.similar_found(std::iter::once(&now)).await?;
        Ok(Some(entry::deletion(&now, version, &similar)))
    }

    async fn node_edit(
        &self,
        id: &SpiffeId,
        edit: impl Fn(&mut Node) -> Result<(), NodeError> + Send,
    ) -> Result<Written<Node>, NodeError> {
        let key = Key::new(Table::Node, id.as_str());
        for _ in 0..=MAX_RETRIES {
            let found = self.read::<Node>(&key).await?;
            let (Record { mut value, created }, version) = found.ok_or(NodeError::Missing)?;
            edit(&mut value)?;
            let commit = Commit {
                expect: vec![(key.clone(), Expect::Version(version))],
                put: vec![(key.clone(), value.value(created))],
                delete: Vec::new(),
            };
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Written { value, seq });
            }
        }
        Err(StoreError::Busy {
            doing: "change a node",
        }
        .into())
    }
}
