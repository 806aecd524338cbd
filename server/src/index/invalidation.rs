//! Which node agents a change invalidates: the ancestors of a changed entry lead up to the agents that may have it.
//!
//! The result may hold more agents than are concerned, never fewer. A batch of changes is followed as one: an ID that was
//! visited once is not followed again, because an ancestor that joins later in the batch is a change itself, and is
//! followed from there.

use std::collections::HashSet;

use countersign_identity::{Entry, SelectorSet, SpiffeId, TrustDomain};

use super::tables::{ChangeObserver, Tables};

/// Up to this many nodes are listed one by one, also if they are more than half.
const FEW: usize = 16;

/// Some nodes, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeSet {
    /// These. A node that is not attested may be among them.
    These(HashSet<SpiffeId>),
    /// All, because they are more than half.
    All,
}

/// The nodes whose view of the index has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Invalidated {
    /// The nodes whose authorised entries have changed.
    pub(crate) entries: NodeSet,
    /// The nodes that need a bundle which has changed.
    pub(crate) bundles: NodeSet,
}

impl Invalidated {
    /// Anything may have changed for any node.
    pub(super) const fn everything() -> Self {
        Self {
            entries: NodeSet::All,
            bundles: NodeSet::All,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.bundles.is_empty()
    }
}

impl NodeSet {
    pub(super) fn contains(&self, node: &SpiffeId) -> bool {
        match self {
            Self::These(nodes) => nodes.contains(node),
            Self::All => true,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::These(nodes) if nodes.is_empty())
    }
}

impl Default for NodeSet {
    fn default() -> Self {
        Self::These(HashSet::new())
    }
}

/// Follows a batch of changes to the nodes that they invalidate.
#[derive(Debug, Default)]
pub(super) struct Invalidation {
    entries: Ascent,
    bundles: Ascent,
}

/// The nodes that were found, and the IDs that were visited on the way up.
#[derive(Debug, Default)]
struct Ascent {
    found: NodeSet,
    visited: HashSet<SpiffeId>,
}

impl Invalidation {
    pub(super) fn finish(self) -> Invalidated {
        Invalidated {
            entries: self.entries.found,
            bundles: self.bundles.found,
        }
    }
}

impl ChangeObserver for Invalidation {
    fn entry(&mut self, tables: &Tables, entry: &Entry) {
        if !entry.is_node_alias() {
            self.entries.ascend(tables, &entry.parent_id);
        } else if tables.entries.has_children(&entry.spiffe_id) {
            self.entries.add_matching(tables, &entry.selectors);
        } else {
            // A childless alias invalidates no node. A child that comes later in the batch must be followed through it,
            // though its ID may have been visited before the alias was there.
            self.entries.visited.clear();
        }
    }

    fn node(
        &mut self,
        tables: &Tables,
        id: &SpiffeId,
        old: Option<&SelectorSet>,
        new: Option<&SelectorSet>,
    ) {
        if old == new {
            return;
        }
        // What was followed earlier in the batch did not lead to the node as it is now.
        self.entries.visited.clear();
        let aliases = |selectors: Option<&SelectorSet>| -> HashSet<SpiffeId> {
            selectors
                .into_iter()
                .flat_map(|selectors| tables.entries.aliases_of(selectors))
                .map(|alias| &alias.value.spiffe_id)
                .filter(|id| tables.entries.has_children(id))
                .cloned()
                .collect()
        };
        if aliases(old) != aliases(new) {
            self.entries.add(tables, id);
        }
    }

    fn bundle(&mut self, tables: &Tables, td: &TrustDomain) {
        // Every node is of the server's own trust domain, and needs its bundle.
        if tables
            .nodes
            .first()
            .is_some_and(|node| node.value.id.is_member_of(td))
        {
            self.bundles.found = NodeSet::All;
            return;
        }
        self.bundles.visited.clear();
        for entry in tables.entries.federating(td) {
            // No agent gets an SVID for an alias, so none needs its bundles.
            if !entry.value.is_node_alias() {
                self.bundles.ascend(tables, &entry.value.parent_id);
            }
        }
    }
}

impl Ascent {
    /// From an entry's parent up to the node agents.
    fn ascend(&mut self, tables: &Tables, parent: &SpiffeId) {
        let mut open = vec![parent.clone()];
        while let Some(id) = open.pop() {
            if self.found == NodeSet::All || self.visited.contains(&id) {
                continue;
            }
            if id.is_agent() {
                self.add(tables, &id);
            }
            for ancestor in tables.entries.of_id(&id) {
                if ancestor.value.is_node_alias() {
                    self.add_matching(tables, &ancestor.value.selectors);
                } else {
                    open.push(ancestor.value.parent_id.clone());
                }
            }
            self.visited.insert(id);
        }
    }

    /// Adds the nodes to which an alias with these selectors applies.
    fn add_matching(&mut self, tables: &Tables, selectors: &SelectorSet) {
        for node in tables.nodes.with_all(selectors) {
            self.add(tables, &node.value.id);
        }
    }

    fn add(&mut self, tables: &Tables, node: &SpiffeId) {
        let NodeSet::These(nodes) = &mut self.found else {
            return;
        };
        if !nodes.contains(node) {
            nodes.insert(node.clone());
        }
        if nodes.len() > FEW && nodes.len() > tables.nodes.len() / 2 {
            self.found = NodeSet::All;
        }
    }
}
