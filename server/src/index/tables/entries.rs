//! Entries, with the indexes that the crawl and the filters use.

use std::collections::BTreeSet;
use std::hash::Hash;

use countersign_identity::{
    Entry, EntryId, Selector, SelectorSet, SpiffeId, TrustDomain, UnixTime,
};
use countersign_store::Record;
use countersign_store::backend::Seq;

use super::postings::{List, Postings};
use super::table::{Table, portion};
use super::{EntryRecord, Limit, Portion};
use crate::index::filter::{EntryFilter, Match};

/// Entries by their ID, by when they were made, and by what they are looked up by.
#[derive(Debug, Default)]
pub(in crate::index) struct Entries {
    table: Table<EntryId, Entry>,
    by_spiffe_id: Postings<SpiffeId>,
    by_parent: Postings<SpiffeId>,
    by_federation: Postings<TrustDomain>,
    by_selector: Postings<Selector>,
    /// Node aliases, each under one of its selectors. A node to which the alias applies has that one too.
    aliases: Postings<Selector>,
    expiring: BTreeSet<(UnixTime, Seq)>,
}

impl Entries {
    pub(in crate::index) fn len(&self) -> usize {
        self.table.len()
    }

    pub(in crate::index) fn by_id(&self, id: &str) -> Option<&EntryRecord> {
        self.table.by_id(id)
    }

    /// The entries with this SPIFFE ID.
    pub(in crate::index) fn of_id(&self, id: &SpiffeId) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_spiffe_id.of(id))
    }

    /// The entries with this parent.
    pub(in crate::index) fn children(
        &self,
        parent: &SpiffeId,
    ) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_parent.of(parent))
    }

    /// Whether any entry has this parent.
    pub(in crate::index) fn has_children(&self, parent: &SpiffeId) -> bool {
        self.by_parent.count(parent) > 0
    }

    /// The entries that federate with this trust domain.
    pub(in crate::index) fn federating(
        &self,
        td: &TrustDomain,
    ) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_federation.of(td))
    }

    /// The aliases that apply to a node with these selectors.
    pub(in crate::index) fn aliases_of<'a>(
        &'a self,
        node: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a EntryRecord> {
        node.iter()
            .flat_map(|selector| self.records(self.aliases.of(selector)))
            .filter(|alias| alias.value.selectors.is_subset_of(node))
    }

    /// The entries that expired before `now`.
    pub(in crate::index) fn expired(&self, now: UnixTime) -> Vec<EntryId> {
        self.expiring
            .range(..(now, Seq::ZERO))
            .filter_map(|(_, seq)| Some(self.table.made_by(*seq)?.value.id.clone()))
            .collect()
    }

    /// The next entries that the filter wants, found by the index with the fewest candidates.
    pub(in crate::index) fn after(
        &self,
        filter: &EntryFilter,
        after: Seq,
        limit: Limit,
    ) -> Portion<EntryRecord> {
        let wants = |entry: &Entry| filter.wants(entry);
        let fewest = self
            .candidates(filter)
            .into_iter()
            .flatten()
            .min_by_key(|candidates| candidates.count);
        match fewest {
            Some(found) => portion(self.records(found.after(after)), limit, wants),
            None => self.table.portion(after, limit, wants),
        }
    }

    /// For each index that the filter can use, the entries among which all that it wants are.
    fn candidates<'a>(&'a self, filter: &'a EntryFilter) -> [Option<Candidates<'a>>; 4] {
        let selector = filter
            .selectors
            .as_ref()
            .and_then(|(how, asked)| needed(*how, asked.iter(), |s| self.by_selector.count(s)));
        let federation = filter
            .federates_with
            .as_ref()
            .and_then(|(how, asked)| needed(*how, asked.iter(), |td| self.by_federation.count(td)));
        [
            Candidates::of(&self.by_spiffe_id, filter.spiffe_id.as_ref()),
            Candidates::of(&self.by_parent, filter.parent_id.as_ref()),
            Candidates::of(&self.by_selector, selector),
            Candidates::of(&self.by_federation, federation),
        ]
    }

    pub(in crate::index) fn put(&mut self, mut record: Record<Entry>) -> EntryRecord {
        self.remove(&record.value.id);
        self.share(&mut record.value);
        let (entry, seq) = (&record.value, record.created);
        self.by_spiffe_id.add(&entry.spiffe_id, seq);
        self.by_parent.add(&entry.parent_id, seq);
        for td in &entry.federates_with {
            self.by_federation.add(td, seq);
        }
        for selector in &entry.selectors {
            self.by_selector.add(selector, seq);
        }
        if entry.is_node_alias()
            && let Some(selector) = self.alias_selector(&entry.selectors)
        {
            self.aliases.add(selector, seq);
        }
        if let Some(expires_at) = entry.expires_at {
            self.expiring.insert((expires_at, seq));
        }
        self.table.put(record)
    }

    pub(in crate::index) fn remove(&mut self, id: &EntryId) {
        let Some(old) = self.table.remove(id) else {
            return;
        };
        let (entry, seq) = (&old.value, old.created);
        self.by_spiffe_id.take(&entry.spiffe_id, seq);
        self.by_parent.take(&entry.parent_id, seq);
        for td in &entry.federates_with {
            self.by_federation.take(td, seq);
        }
        for selector in &entry.selectors {
            self.by_selector.take(selector, seq);
        }
        if entry.is_node_alias() {
            // Which selector it is under depends on what was there when it was added.
            let _ = entry
                .selectors
                .iter()
                .any(|selector| self.aliases.take(selector, seq));
        }
        if let Some(expires_at) = entry.expires_at {
            self.expiring.remove(&(expires_at, seq));
        }
    }

    /// The selector with the fewest aliases under it: under a selector that all have, each crawl would look at all aliases.
    fn alias_selector<'a>(&self, selectors: &'a SelectorSet) -> Option<&'a Selector> {
        selectors
            .iter()
            .min_by_key(|selector| self.aliases.count(selector))
    }

    /// Replaces IDs and selectors by equal ones of other entries, so that their text is in memory once.
    fn share(&self, entry: &mut Entry) {
        if let Some(parent) = self.by_parent.shared(&entry.parent_id) {
            entry.parent_id = parent.clone();
        }
        if let Some(id) = self.by_spiffe_id.shared(&entry.spiffe_id) {
            entry.spiffe_id = id.clone();
        }
        for td in &mut entry.federates_with {
            if let Some(shared) = self.by_federation.shared(td) {
                *td = shared.clone();
            }
        }
        let selectors = entry.selectors.iter();
        entry.selectors = selectors
            .map(|selector| {
                self.by_selector
                    .shared(selector)
                    .unwrap_or(selector)
                    .clone()
            })
            .collect();
    }

    fn records(&self, seqs: impl Iterator<Item = Seq>) -> impl Iterator<Item = &EntryRecord> {
        seqs.filter_map(|seq| self.table.made_by(seq))
    }
}

/// The entries under one key of an index.
struct Candidates<'a> {
    count: usize,
    list: Option<&'a List>,
}

impl<'a> Candidates<'a> {
    fn of<K: Eq + Hash + Clone>(index: &'a Postings<K>, key: Option<&K>) -> Option<Self> {
        let key = key?;
        Some(Self {
            count: index.count(key),
            list: index.list(key),
        })
    }

    fn after(self, after: Seq) -> impl Iterator<Item = Seq> + use<'a> {
        self.list
            .into_iter()
            .flat_map(move |list| list.after(after))
    }
}

/// A selector or trust domain that every wanted entry must have: of several, the one that the fewest entries have.
fn needed<'a, K>(
    how: Match,
    mut asked: impl ExactSizeIterator<Item = &'a K>,
    count: impl Fn(&K) -> usize,
) -> Option<&'a K> {
    match how {
        Match::Exact | Match::Superset => asked.min_by_key(|key| count(key)),
        // With several, an entry needs only one of them, and it can be any.
        Match::Any | Match::Subset if asked.len() == 1 => asked.next(),
        Match::Any | Match::Subset => None,
    }
}
