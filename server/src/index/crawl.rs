//! Which entries a node agent may have: the descendants of its ID, and those of the node aliases that apply to it. Aliases
//! themselves are not among them.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_identity::SpiffeId;

use super::EntryRecord;
use super::tables::Tables;

/// All entries that the agent may have.
pub(super) fn descendants(tables: &Tables, agent: &SpiffeId) -> Vec<EntryRecord> {
    let mut found = Vec::new();
    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    let mut open = vec![agent];
    if let Some(node) = tables.nodes.by_id(agent) {
        open.extend(
            tables
                .entries
                .aliases_of(&node.value.selectors)
                .map(|alias| &alias.value.spiffe_id),
        );
    }
    while let Some(parent) = open.pop() {
        // Entries may form a cycle, or several paths to one ID.
        if !visited.insert(parent) {
            continue;
        }
        for entry in tables.entries.children(parent) {
            found.push(Arc::clone(entry));
            open.push(&entry.value.spiffe_id);
        }
    }
    found
}

/// Whether the entry is one of them, found from its end: an entry has few ancestors, an agent may have many descendants.
pub(super) fn has_ancestor(tables: &Tables, entry: &EntryRecord, agent: &SpiffeId) -> bool {
    let node = tables.nodes.by_id(agent);
    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    let mut open = vec![&entry.value.parent_id];
    while let Some(id) = open.pop() {
        if id == agent {
            return true;
        }
        if !visited.insert(id) {
            continue;
        }
        for parent in tables.entries.of_id(id) {
            if !parent.value.is_node_alias() {
                open.push(&parent.value.parent_id);
            } else if node
                .is_some_and(|node| parent.value.selectors.is_subset_of(&node.value.selectors))
            {
                return true;
            }
        }
    }
    false
}
