//! Which entries a node agent may have: all below its own ID, below the IDs of the aliases that fit it, and below what
//! these lead to. Aliases themselves are not among them.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_identity::SpiffeId;

use super::EntryRecord;
use super::index::Index;

/// All of them.
pub(super) fn down(index: &Index, agent: &SpiffeId) -> Vec<EntryRecord> {
    let mut found = Vec::new();
    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    let mut open = vec![agent];
    if let Some(node) = index.nodes.by_id(agent) {
        open.extend(
            index
                .entries
                .aliases_of(&node.value.selectors)
                .map(|alias| &alias.value.spiffe_id),
        );
    }
    while let Some(parent) = open.pop() {
        if !visited.insert(parent) {
            continue;
        }
        for entry in index.entries.below(parent) {
            found.push(Arc::clone(entry));
            open.push(&entry.value.spiffe_id);
        }
    }
    found
}

/// The entry, if it is one of them: the way from it leads up to the agent.
pub(super) fn up(index: &Index, agent: &SpiffeId, entry: &EntryRecord) -> Option<EntryRecord> {
    let node = index.nodes.by_id(agent);
    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    let mut open = vec![&entry.value.parent_id];
    while let Some(id) = open.pop() {
        if id == agent {
            return Some(Arc::clone(entry));
        }
        if !visited.insert(id) {
            continue;
        }
        for above in index.entries.of_id(id) {
            if !above.value.is_node_alias() {
                open.push(&above.value.parent_id);
            } else if node
                .is_some_and(|node| above.value.selectors.is_subset_of(&node.value.selectors))
            {
                return Some(Arc::clone(entry));
            }
        }
    }
    None
}
