//! Attested nodes, indexed by selector so that the nodes of an alias are found.

use countersign_identity::{Node, Selector, SelectorSet, SpiffeId};
use countersign_store::Record;
use countersign_store::backend::Seq;

use super::postings::Postings;
use super::table::Table;
use super::{Limit, Portion};
use crate::index::NodeRecord;
use crate::index::filter::NodeFilter;

/// Nodes by their ID, by when they were attested first, and by their selectors.
#[derive(Debug, Default)]
pub(in crate::index) struct Nodes {
    table: Table<SpiffeId, Node>,
    by_selector: Postings<Selector>,
}

impl Nodes {
    pub(in crate::index) fn len(&self) -> usize {
        self.table.len()
    }

    pub(in crate::index) fn by_id(&self, id: &SpiffeId) -> Option<&NodeRecord> {
        self.table.by_id(id)
    }

    /// The node that was attested first.
    pub(in crate::index) fn first(&self) -> Option<&NodeRecord> {
        self.table.in_order().next()
    }

    /// The nodes that have all of these selectors. None if the set is empty: a node alias without selectors applies to no
    /// node.
    pub(in crate::index) fn with_all<'a>(
        &'a self,
        selectors: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a NodeRecord> {
        let rarest = selectors
            .iter()
            .min_by_key(|selector| self.by_selector.count(selector));
        rarest
            .into_iter()
            .flat_map(|selector| self.by_selector.of(selector))
            .filter_map(|seq| self.table.made_by(seq))
            .filter(|node| selectors.is_subset_of(&node.value.selectors))
    }

    pub(in crate::index) fn after(
        &self,
        filter: &NodeFilter,
        after: Seq,
        limit: Limit,
    ) -> Portion<NodeRecord> {
        self.table.portion(after, limit, |node| filter.wants(node))
    }

    pub(in crate::index) fn put(&mut self, record: Record<Node>) -> NodeRecord {
        self.remove(&record.value.id);
        for selector in &record.value.selectors {
            self.by_selector.add(selector, record.created);
        }
        self.table.put(record)
    }

    pub(in crate::index) fn remove(&mut self, id: &SpiffeId) {
        let Some(old) = self.table.remove(id) else {
            return;
        };
        for selector in &old.value.selectors {
            self.by_selector.take(selector, old.created);
        }
    }
}
