//! Eviction of a node agent: removes its record and the entry that its attestation created.

use countersign_identity::{Entry, Node, Selector, SpiffeId};
use countersign_store::{NodeError, Pending, Store};

use super::JoinToken;
use crate::index::{EntryFilter, Index, Match, Page};

/// Deletes a node if `due` still holds for it, and the alias entry that its join token made. Returns whether it held.
///
/// # Errors
/// There is no such node, or the store failed.
pub(crate) async fn evict(
    store: &Store,
    index: &Index,
    id: &SpiffeId,
    due: &(dyn Fn(&Node) -> bool + Sync),
) -> Result<Pending<bool>, NodeError> {
    let node = index.node(id).ok_or(NodeError::Missing)?;
    let alias = (node.value.attestation_type == JoinToken::NAME)
        .then(|| token_entry(index, id))
        .flatten();
    store.node_deleted(id, alias.as_ref(), due).await
}

/// The entry that a join token with a second ID made: a child of the node, with the node's ID as its only selector.
fn token_entry(index: &Index, node: &SpiffeId) -> Option<Entry> {
    let own = Selector::new("spiffe_id", node.as_str());
    let filter = EntryFilter {
        parent_id: Some(node.clone()),
        selectors: Some((Match::Exact, own.into_iter().collect())),
        ..EntryFilter::default()
    };
    let found = index.entries(&filter, Page::All);
    found.first().map(|record| record.value.clone())
}
