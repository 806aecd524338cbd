//! Objects by their ID and in the order of creation.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, EntryId, Node, SpiffeId, TrustDomain};
use countersign_store::Record;
use countersign_store::backend::Seq;

use super::{Limit, Portion};
use crate::index::{BundleRecord, RelationshipRecord};

/// Objects by their ID and in the order of creation.
#[derive(Debug)]
pub(in crate::index) struct Table<K, V> {
    by_id: HashMap<K, Arc<Record<V>>>,
    by_creation: BTreeMap<Seq, Arc<Record<V>>>,
}

/// An object with an ID of its own.
pub(super) trait Identified<K> {
    fn id(&self) -> K;
}

impl Identified<EntryId> for Entry {
    fn id(&self) -> EntryId {
        self.id.clone()
    }
}

impl Identified<SpiffeId> for Node {
    fn id(&self) -> SpiffeId {
        self.id.clone()
    }
}

impl Identified<TrustDomain> for Bundle {
    fn id(&self) -> TrustDomain {
        self.trust_domain.clone()
    }
}

impl Identified<TrustDomain> for Relationship {
    fn id(&self) -> TrustDomain {
        self.trust_domain.clone()
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_creation: BTreeMap::new(),
        }
    }
}

#[expect(private_bounds, reason = "an implementation detail of the index")]
impl<K: Eq + Hash, V: Identified<K>> Table<K, V> {
    pub(in crate::index) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(in crate::index) fn by_id<Q>(&self, id: &Q) -> Option<&Arc<Record<V>>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.by_id.get(id)
    }

    /// The object that this commit created.
    pub(super) fn made_by(&self, seq: Seq) -> Option<&Arc<Record<V>>> {
        self.by_creation.get(&seq)
    }

    /// All objects in the order of creation.
    pub(in crate::index) fn in_order(&self) -> impl Iterator<Item = &Arc<Record<V>>> {
        self.by_creation.values()
    }

    pub(in crate::index) fn put(&mut self, record: Record<V>) -> Arc<Record<V>> {
        let id = record.value.id();
        self.remove(&id);
        let record = Arc::new(record);
        self.by_creation.insert(record.created, Arc::clone(&record));
        self.by_id.insert(id, Arc::clone(&record));
        record
    }

    pub(in crate::index) fn remove(&mut self, id: &K) -> Option<Arc<Record<V>>> {
        let old = self.by_id.remove(id)?;
        self.by_creation.remove(&old.created);
        Some(old)
    }

    /// The wanted objects among the next candidates.
    pub(super) fn portion(
        &self,
        after: Seq,
        limit: Limit,
        wants: impl Fn(&V) -> bool,
    ) -> Portion<Arc<Record<V>>> {
        let next = self
            .by_creation
            .range((Bound::Excluded(after), Bound::Unbounded));
        portion(next.map(|(_, record)| record), limit, wants)
    }
}

impl Table<TrustDomain, Relationship> {
    pub(in crate::index) fn after(&self, after: Seq, limit: Limit) -> Portion<RelationshipRecord> {
        self.portion(after, limit, |_| true)
    }
}

impl Table<TrustDomain, Bundle> {
    pub(in crate::index) fn after(&self, after: Seq, limit: Limit) -> Portion<BundleRecord> {
        self.portion(after, limit, |_| true)
    }
}

/// The wanted records among the next ones, within the limit.
pub(super) fn portion<'a, V: 'a>(
    mut next: impl Iterator<Item = &'a Arc<Record<V>>>,
    limit: Limit,
    wants: impl Fn(&V) -> bool,
) -> Portion<Arc<Record<V>>> {
    let mut found = Vec::new();
    let mut last = None;
    for record in next.by_ref().take(limit.candidates) {
        last = Some(record.created);
        if wants(&record.value) {
            found.push(Arc::clone(record));
            if found.len() >= limit.wanted {
                break;
            }
        }
    }
    let more_after = if next.next().is_some() { last } else { None };
    Portion { found, more_after }
}
