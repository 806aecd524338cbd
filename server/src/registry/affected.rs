//! Whom a change concerns: the ways from it lead up to the node agents that may have the entry.
//!
//! What is found may be more than what is concerned, never less. A batch of changes is followed as one: an ID that was
//! reached once is not followed again, since whatever joins above it later in the batch is itself a change, from which
//! the way up is followed.

use std::collections::HashSet;

use countersign_identity::{Entry, SelectorSet, SpiffeId, TrustDomain};

use super::index::Index;

/// Up to so many nodes are told by name, however few there are.
const FEW: usize = 16;

/// Some nodes, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// These. A node that is not attested may be among them.
    These(HashSet<SpiffeId>),
    /// All: they are more than half.
    All,
}

/// For which nodes something is not as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// The entries that they may have.
    pub entries: Nodes,
    /// A bundle that they need.
    pub bundles: Nodes,
}

impl Affected {
    /// Everything may be another for everybody.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            entries: Nodes::All,
            bundles: Nodes::All,
        }
    }

    /// Whether nobody is concerned.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.entries.is_none() && self.bundles.is_none()
    }
}

impl Nodes {
    /// Whether this node is among them.
    #[must_use]
    pub fn contains(&self, node: &SpiffeId) -> bool {
        match self {
            Self::These(nodes) => nodes.contains(node),
            Self::All => true,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::These(nodes) if nodes.is_empty())
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self::These(HashSet::new())
    }
}

/// Follows a batch of changes.
#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: Walk,
    bundles: Walk,
}

/// The nodes that were found, and the IDs through which the ways led.
#[derive(Debug, Default)]
struct Walk {
    found: Nodes,
    visited: HashSet<SpiffeId>,
}

impl Trace {
    /// What was found.
    pub(super) fn into_affected(self) -> Affected {
        Affected {
            entries: self.entries.found,
            bundles: self.bundles.found,
        }
    }

    /// An entry is about to go, or has come.
    pub(super) fn entry(&mut self, index: &Index, entry: &Entry) {
        if !entry.is_node_alias() {
            self.entries.up(index, &entry.parent_id);
        } else if index.entries.has_below(&entry.spiffe_id) {
            self.entries.matching(index, &entry.selectors);
        } else {
            // Nobody gets or loses anything by it now; but what comes below it later must be followed through it.
            self.entries.visited.clear();
        }
    }

    /// A node has come, gone, or has other selectors.
    pub(super) fn node(
        &mut self,
        index: &Index,
        id: &SpiffeId,
        old: Option<&SelectorSet>,
        new: Option<&SelectorSet>,
    ) {
        if old == new {
            return;
        }
        // Ways that were followed before did not end at the node as it is now.
        self.entries.visited.clear();
        let above = |node: Option<&SelectorSet>| -> HashSet<SpiffeId> {
            node.into_iter()
                .flat_map(|selectors| index.entries.aliases_of(selectors))
                .map(|alias| &alias.value.spiffe_id)
                .filter(|id| index.entries.has_below(id))
                .cloned()
                .collect()
        };
        if above(old) != above(new) {
            self.entries.add(index, id);
        }
    }

    /// A bundle has come, gone, or is another.
    pub(super) fn bundle(&mut self, index: &Index, td: &TrustDomain) {
        // Every node is of the server's own trust domain, and needs its bundle.
        if index
            .nodes
            .first()
            .is_some_and(|node| node.value.id.is_member_of(td))
        {
            self.bundles.found = Nodes::All;
            return;
        }
        self.bundles.visited.clear();
        for entry in index.entries.federating(td) {
            // An alias is given to nobody.
            if !entry.value.is_node_alias() {
                self.bundles.up(index, &entry.value.parent_id);
            }
        }
    }
}

impl Walk {
    /// From an entry's parent up to the node agents.
    fn up(&mut self, index: &Index, parent: &SpiffeId) {
        let mut open = vec![parent.clone()];
        while let Some(id) = open.pop() {
            if self.found == Nodes::All || self.visited.contains(&id) {
                continue;
            }
            if id.is_agent() {
                self.add(index, &id);
            }
            for above in index.entries.of_id(&id) {
                if above.value.is_node_alias() {
                    self.matching(index, &above.value.selectors);
                } else {
                    open.push(above.value.parent_id.clone());
                }
            }
            self.visited.insert(id);
        }
    }

    /// The nodes to which an alias with these selectors applies.
    fn matching(&mut self, index: &Index, selectors: &SelectorSet) {
        for node in index.nodes.with_all(selectors) {
            self.add(index, &node.value.id);
        }
    }

    fn add(&mut self, index: &Index, node: &SpiffeId) {
        let Nodes::These(nodes) = &mut self.found else {
            return;
        };
        if !nodes.contains(node) {
            nodes.insert(node.clone());
        }
        if nodes.len() > FEW && nodes.len() > index.nodes.len() / 2 {
            self.found = Nodes::All;
        }
    }
}
