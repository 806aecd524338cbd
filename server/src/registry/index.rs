//! The objects in memory, by all that they are looked up by.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use countersign_identity::bundle::BundleSet;
use countersign_identity::{
    Bundle, Entry, EntryId, Node, Selector, SpiffeId, TrustDomain, UnixTime,
};

use super::filter::{EntryFilter, NodeFilter};
use super::{BundleRecord, EntryRecord, NodeRecord};
use crate::store::backend::Seq;
use crate::store::{Changed, Record};

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Entries,
    pub(super) nodes: Table<SpiffeId, Node>,
    pub(super) bundles: Table<TrustDomain, Bundle>,
}

/// Part of a list, and from where to go on.
pub(super) struct Portion<T> {
    pub(super) found: Vec<T>,
    /// The last candidate looked at; `None` if there are no more.
    pub(super) more_after: Option<Seq>,
}

/// Objects by their ID and in the order in which they were made.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    by_id: HashMap<K, Arc<Record<V>>>,
    by_creation: BTreeMap<Seq, Arc<Record<V>>>,
}

/// Entries, with the indexes that the crawl and the filters use.
#[derive(Debug, Default)]
pub(super) struct Entries {
    table: Table<EntryId, Entry>,
    by_spiffe_id: Postings<SpiffeId>,
    by_parent: Postings<SpiffeId>,
    /// Node aliases, each under one of its selectors: a node must have that one in any case.
    aliases: Postings<Selector>,
    expiring: BTreeSet<(UnixTime, Seq)>,
}

/// Which entries have something, by when they were made.
#[derive(Debug)]
struct Postings<K>(HashMap<K, Vec<Seq>>);

/// What has an ID of its own.
trait Identified<K> {
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

impl Index {
    /// Takes over one change.
    pub(super) fn apply(&mut self, change: Changed) {
        match change {
            Changed::Entry(_, Some(record)) => self.entries.put(record),
            Changed::Entry(id, None) => self.entries.remove(&id),
            Changed::Node(_, Some(record)) => self.nodes.put(record),
            Changed::Node(id, None) => drop(self.nodes.remove(&id)),
            Changed::Bundle(_, Some(record)) => self.bundles.put(record),
            Changed::Bundle(td, None) => drop(self.bundles.remove(&td)),
        }
    }

    /// The bundles alone, as verification wants them.
    pub(super) fn bundle_set(&self) -> BundleSet {
        self.bundles
            .by_creation
            .values()
            .map(|record| record.value.clone())
            .collect()
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

#[expect(private_bounds, reason = "an implementation detail of this module")]
impl<K: Eq + Hash, V: Identified<K>> Table<K, V> {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn by_id<Q>(&self, id: &Q) -> Option<&Arc<Record<V>>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.by_id.get(id)
    }

    pub(super) fn put(&mut self, record: Record<V>) {
        let id = record.value.id();
        self.remove(&id);
        let record = Arc::new(record);
        self.by_creation.insert(record.created, Arc::clone(&record));
        self.by_id.insert(id, record);
    }

    pub(super) fn remove(&mut self, id: &K) -> Option<Arc<Record<V>>> {
        let old = self.by_id.remove(id)?;
        self.by_creation.remove(&old.created);
        Some(old)
    }

    /// Of the next candidates those that are wanted.
    fn portion(
        &self,
        after: Seq,
        candidates: usize,
        wants: impl Fn(&V) -> bool,
    ) -> Portion<Arc<Record<V>>> {
        let next = self
            .by_creation
            .range((Bound::Excluded(after), Bound::Unbounded));
        portion(next.map(|(_, record)| record), candidates, wants)
    }
}

impl Table<SpiffeId, Node> {
    pub(super) fn after(
        &self,
        filter: &NodeFilter,
        after: Seq,
        candidates: usize,
    ) -> Portion<NodeRecord> {
        self.portion(after, candidates, |node| filter.wants(node))
    }
}

impl Table<TrustDomain, Bundle> {
    pub(super) fn after(&self, after: Seq, candidates: usize) -> Portion<BundleRecord> {
        self.portion(after, candidates, |_| true)
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&EntryRecord> {
        self.table.by_id(id)
    }

    /// The entries with this SPIFFE ID.
    pub(super) fn of_id(&self, id: &SpiffeId) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_spiffe_id.of(id))
    }

    /// The entries below this parent.
    pub(super) fn below(&self, parent: &SpiffeId) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_parent.of(parent))
    }

    /// The aliases whose selectors the node has.
    pub(super) fn aliases_of(&self, node: &Node) -> impl Iterator<Item = &EntryRecord> {
        node.selectors
            .iter()
            .flat_map(|selector| self.records(self.aliases.of(selector)))
            .filter(|alias| alias.value.selectors.is_subset_of(&node.selectors))
    }

    /// Those that expired before this moment.
    pub(super) fn expired(&self, now: UnixTime) -> Vec<EntryId> {
        self.expiring
            .range(..(now, Seq::ZERO))
            .filter_map(|(_, seq)| Some(self.table.by_creation.get(seq)?.value.id.clone()))
            .collect()
    }

    /// Of the next candidates those that are wanted, by the shortest way there is.
    pub(super) fn after(
        &self,
        filter: &EntryFilter,
        after: Seq,
        candidates: usize,
    ) -> Portion<EntryRecord> {
        let by_id = filter.spiffe_id.as_ref().map(|id| self.by_spiffe_id.of(id));
        let by_parent = filter.parent_id.as_ref().map(|id| self.by_parent.of(id));
        match by_id
            .into_iter()
            .chain(by_parent)
            .min_by_key(|seqs| seqs.len())
        {
            Some(seqs) => {
                let first = seqs.partition_point(|seq| *seq <= after);
                let next = seqs.get(first..).unwrap_or_default();
                portion(self.records(next), candidates, |entry| filter.wants(entry))
            }
            None => self
                .table
                .portion(after, candidates, |entry| filter.wants(entry)),
        }
    }

    pub(super) fn put(&mut self, record: Record<Entry>) {
        self.remove(&record.value.id);
        let (entry, seq) = (&record.value, record.created);
        self.by_spiffe_id.add(&entry.spiffe_id, seq);
        self.by_parent.add(&entry.parent_id, seq);
        if let Some(selector) = alias_selector(entry) {
            self.aliases.add(selector, seq);
        }
        if let Some(expires_at) = entry.expires_at {
            self.expiring.insert((expires_at, seq));
        }
        self.table.put(record);
    }

    pub(super) fn remove(&mut self, id: &EntryId) {
        let Some(old) = self.table.remove(id) else {
            return;
        };
        let (entry, seq) = (&old.value, old.created);
        self.by_spiffe_id.take(&entry.spiffe_id, seq);
        self.by_parent.take(&entry.parent_id, seq);
        if let Some(selector) = alias_selector(entry) {
            self.aliases.take(selector, seq);
        }
        if let Some(expires_at) = entry.expires_at {
            self.expiring.remove(&(expires_at, seq));
        }
    }

    fn records<'a>(&'a self, seqs: &'a [Seq]) -> impl Iterator<Item = &'a EntryRecord> {
        seqs.iter()
            .filter_map(|seq| self.table.by_creation.get(seq))
    }
}

impl<K> Default for Postings<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Postings<K> {
    /// In order.
    fn of(&self, key: &K) -> &[Seq] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, key: &K, seq: Seq) {
        let seqs = self.0.entry(key.clone()).or_default();
        if let Err(place) = seqs.binary_search(&seq) {
            seqs.insert(place, seq);
        }
    }

    fn take(&mut self, key: &K, seq: Seq) {
        let Some(seqs) = self.0.get_mut(key) else {
            return;
        };
        if let Ok(place) = seqs.binary_search(&seq) {
            seqs.remove(place);
        }
        if seqs.is_empty() {
            self.0.remove(key);
        }
    }
}

fn alias_selector(entry: &Entry) -> Option<&Selector> {
    entry
        .is_node_alias()
        .then(|| entry.selectors.iter().next())
        .flatten()
}

fn portion<'a, V: 'a>(
    mut next: impl Iterator<Item = &'a Arc<Record<V>>>,
    candidates: usize,
    wants: impl Fn(&V) -> bool,
) -> Portion<Arc<Record<V>>> {
    let mut found = Vec::new();
    let mut last = None;
    for record in next.by_ref().take(candidates) {
        last = Some(record.created);
        if wants(&record.value) {
            found.push(Arc::clone(record));
        }
    }
    let more_after = if next.next().is_some() { last } else { None };
    Portion { found, more_after }
}
