//! All objects in memory, indexed by everything that they are looked up by.

use countersign_identity::bundle::BundleSet;
use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, SelectorSet, SpiffeId, TrustDomain};
use countersign_store::backend::Seq;
use countersign_store::{Changed, Record};

use super::EntryRecord;
use entries::Entries;
use nodes::Nodes;
use table::Table;

mod entries;
mod nodes;
mod postings;
mod table;

/// The tables of the index.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) entries: Entries,
    pub(super) nodes: Nodes,
    pub(super) bundles: Table<TrustDomain, Bundle>,
    pub(super) relationships: Table<TrustDomain, Relationship>,
}

/// Part of a list, and where the next part begins.
pub(super) struct Portion<T> {
    pub(super) found: Vec<T>,
    /// The last record that was examined; `None` if there are no more.
    pub(super) more_after: Option<Seq>,
}

/// How much of a list is read under one lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// At most this many records are examined, so that the lock is not held for long.
    pub(super) candidates: usize,
    /// The portion ends when this many are found.
    pub(super) wanted: usize,
}

/// Sees changes as they are applied.
pub(super) trait ChangeObserver {
    /// An entry is about to be replaced or removed, or has been added.
    fn entry(&mut self, tables: &Tables, entry: &Entry);

    /// A node was added or removed, or its selectors may have changed. `None` is a node that is not there.
    fn node(
        &mut self,
        tables: &Tables,
        id: &SpiffeId,
        old: Option<&SelectorSet>,
        new: Option<&SelectorSet>,
    );

    /// A bundle was added, removed or replaced.
    fn bundle(&mut self, tables: &Tables, td: &TrustDomain);
}

/// Observes nothing, for a write path without subscribers.
impl ChangeObserver for () {
    fn entry(&mut self, _: &Tables, _: &Entry) {}

    fn node(&mut self, _: &Tables, _: &SpiffeId, _: Option<&SelectorSet>, _: Option<&SelectorSet>) {
    }

    fn bundle(&mut self, _: &Tables, _: &TrustDomain) {}
}

impl Tables {
    /// Applies one change of the store.
    pub(super) fn apply(&mut self, change: Changed, observer: &mut impl ChangeObserver) {
        match change {
            Changed::Entry(id, new) => {
                let old = self.entries.by_id(id.as_str()).cloned();
                if is_same(old.as_deref(), new.as_ref()) {
                    return;
                }
                if let Some(old) = &old {
                    observer.entry(self, &old.value);
                }
                match new {
                    Some(record) => {
                        let record = self.entries.put(record);
                        observer.entry(self, &record.value);
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
                observer.node(self, &id, value(&old).as_ref(), value(&new).as_ref());
            }
            Changed::Bundle(td, new) => {
                if is_same(self.bundles.by_id(&td).map(AsRef::as_ref), new.as_ref()) {
                    return;
                }
                match new {
                    Some(record) => drop(self.bundles.put(record)),
                    None => drop(self.bundles.remove(&td)),
                }
                observer.bundle(self, &td);
            }
            // No node agent needs relationships.
            Changed::Relationship(_, Some(record)) => drop(self.relationships.put(record)),
            Changed::Relationship(td, None) => drop(self.relationships.remove(&td)),
        }
    }

    /// The bundles in the form that verification reads.
    pub(super) fn bundle_set(&self) -> BundleSet {
        self.bundles
            .in_order()
            .map(|record| record.value.clone())
            .collect()
    }
}

/// Whether a change is none: the feed may repeat what was already loaded.
fn is_same<T: PartialEq>(old: Option<&Record<T>>, new: Option<&Record<T>>) -> bool {
    old == new
}
