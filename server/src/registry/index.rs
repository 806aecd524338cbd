//! The objects in memory, by all that they are looked up by.

use countersign_identity::bundle::BundleSet;
use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, TrustDomain};
use countersign_store::backend::Seq;
use countersign_store::{Changed, Record};

use super::EntryRecord;
use super::affected::Trace;
use entries::Entries;
use nodes::Nodes;
use table::Table;

mod entries;
mod nodes;
mod postings;
mod table;

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Entries,
    pub(super) nodes: Nodes,
    pub(super) bundles: Table<TrustDomain, Bundle>,
    pub(super) relationships: Table<TrustDomain, Relationship>,
}

/// Part of a list, and from where to go on.
pub(super) struct Portion<T> {
    pub(super) found: Vec<T>,
    /// The last candidate looked at; `None` if there are no more.
    pub(super) more_after: Option<Seq>,
}

/// How much of a list is looked at in one go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// At most so many are looked at, so that the lock is not held for long.
    pub(super) candidates: usize,
    /// It ends when so many are found.
    pub(super) wanted: usize,
}

impl Index {
    /// Takes over one change, and notes whom it concerns.
    pub(super) fn apply(&mut self, change: Changed, trace: &mut Trace) {
        match change {
            Changed::Entry(id, new) => {
                let old = self.entries.by_id(id.as_str()).cloned();
                if is_same(old.as_deref(), new.as_ref()) {
                    return;
                }
                if let Some(old) = &old {
                    trace.entry(self, &old.value);
                }
                match new {
                    Some(record) => {
                        let record = self.entries.put(record);
                        trace.entry(self, &record.value);
                    }
                    None => self.entries.remove(&id),
                }
            }
            Changed::Node(id, new) => {
                let old = self.nodes.by_id(&id).cloned();
                if is_same(old.as_deref(), new.as_ref()) {
                    return;
                }
                let new = match new {
                    Some(record) => Some(self.nodes.put(record)),
                    None => {
                        self.nodes.remove(&id);
                        None
                    }
                };
                let value = |record: &Option<super::NodeRecord>| {
                    record.as_ref().map(|record| record.value.selectors.clone())
                };
                trace.node(self, &id, value(&old).as_ref(), value(&new).as_ref());
            }
            Changed::Bundle(td, new) => {
                if is_same(self.bundles.by_id(&td).map(AsRef::as_ref), new.as_ref()) {
                    return;
                }
                match new {
                    Some(record) => drop(self.bundles.put(record)),
                    None => drop(self.bundles.remove(&td)),
                }
                trace.bundle(self, &td);
            }
            // It concerns no node agent.
            Changed::Relationship(_, Some(record)) => drop(self.relationships.put(record)),
            Changed::Relationship(td, None) => drop(self.relationships.remove(&td)),
        }
    }

    /// The bundles alone, as verification wants them.
    pub(super) fn bundle_set(&self) -> BundleSet {
        self.bundles
            .in_order()
            .map(|record| record.value.clone())
            .collect()
    }
}

/// Whether a change tells nothing new: the feed may tell of one more than once.
fn is_same<T: PartialEq>(old: Option<&Record<T>>, new: Option<&Record<T>>) -> bool {
    old == new
}
