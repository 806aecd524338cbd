//! Attested nodes.

use countersign_identity::node::Credential;
use countersign_identity::{Entry, Node, SpiffeId};
use futures::FutureExt as _;

use crate::backend::{Key, Seq, Table};
use crate::entry::forget_similar;
use crate::record::Stored as _;
use crate::txn::Txn;
use crate::{Pending, Record, Store, StoreError};

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
    /// Records an attestation. A known node keeps its attestation type and its version.
    ///
    /// # Errors
    /// The node is banned, or the store failed.
    pub async fn node_attested(&self, node: &Node) -> Result<Pending<Node>, NodeError> {
        self.retry("record an attested node", move |txn| {
            async move {
                let (new, created) = match txn.read::<Node>(&node.key()).await? {
                    None => (node.clone(), Seq::ZERO),
                    Some(old) if old.value.is_banned() => return Err(NodeError::Banned),
                    Some(old) => {
                        let new = Node {
                            attestation_type: old.value.attestation_type,
                            agent_version: old.value.agent_version,
                            ..node.clone()
                        };
                        (new, old.created)
                    }
                };
                txn.put(&new, created);
                Ok(new)
            }
            .boxed()
        })
        .await
    }

    /// Records a renewed SVID of a node as pending, until its first use.
    ///
    /// # Errors
    /// The node is unknown or banned, or the store failed.
    pub async fn node_renewed(
        &self,
        id: &SpiffeId,
        pending: Credential,
    ) -> Result<Pending<Node>, NodeError> {
        self.node_edit(id, |node| {
            if node.is_banned() {
                return Err(NodeError::Banned);
            }
            node.pending = Some(pending.clone());
            Ok(())
        })
        .await
    }

    /// Makes the pending SVID the current one, if it still has this serial number. Returns the current node in either
    /// case.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_promoted(
        &self,
        id: &SpiffeId,
        serial: &str,
    ) -> Result<Pending<Node>, NodeError> {
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

    /// Bans a node: none of its SVIDs is accepted any more, and it can't attest again until it is deleted.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_banned(&self, id: &SpiffeId) -> Result<Pending<Node>, NodeError> {
        self.node_edit(id, |node| {
            node.current = None;
            node.pending = None;
            Ok(())
        })
        .await
    }

    /// Records the version of a node agent.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_versioned(
        &self,
        id: &SpiffeId,
        version: &str,
    ) -> Result<Pending<Node>, NodeError> {
        self.node_edit(id, |node| {
            version.clone_into(&mut node.agent_version);
            Ok(())
        })
        .await
    }

    /// Deletes a node if `due` is true for it within the transaction, together with the entry of its join token, if
    /// there is one. Returns whether it was due.
    ///
    /// # Errors
    /// The node is unknown, or the store failed.
    pub async fn node_deleted(
        &self,
        id: &SpiffeId,
        alias: Option<&Entry>,
        due: &(dyn Fn(&Node) -> bool + Sync),
    ) -> Result<Pending<bool>, NodeError> {
        let key = &node_key(id);
        self.retry("delete a node", move |txn| {
            async move {
                let node = txn.read::<Node>(key).await?.ok_or(NodeError::Missing)?;
                if !due(&node.value) {
                    txn.skip_commit();
                    return Ok(false);
                }
                txn.delete(key.clone());
                if let Some(alias) = alias {
                    self.delete_alias(txn, alias).await?;
                }
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Deletes the entry created with a join token, unless an administrator has changed it into another one since.
    async fn delete_alias(&self, txn: &mut Txn<'_>, alias: &Entry) -> Result<(), StoreError> {
        let Some(Record { value: now, .. }) = txn.read::<Entry>(&alias.key()).await? else {
            return Ok(());
        };
        if now.parent_id == alias.parent_id && now.selectors == alias.selectors {
            let similar = self.similar_found(std::iter::once(&now)).await?;
            txn.delete(now.key());
            forget_similar(txn.commit(), &now, &similar);
        }
        Ok(())
    }

    async fn node_edit(
        &self,
        id: &SpiffeId,
        edit: impl Fn(&mut Node) -> Result<(), NodeError> + Send + Sync,
    ) -> Result<Pending<Node>, NodeError> {
        let (key, edit) = (&node_key(id), &edit);
        self.retry("change a node", move |txn| {
            async move {
                let found = txn.read::<Node>(key).await?;
                let Record { mut value, created } = found.ok_or(NodeError::Missing)?;
                edit(&mut value)?;
                txn.put(&value, created);
                Ok(value)
            }
            .boxed()
        })
        .await
    }
}

fn node_key(id: &SpiffeId) -> Key {
    Key::new(Table::Node, id.as_str())
}
