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
use crate::registry::filter::{EntryFilter, Match};

/// Entries by their ID, by when they were made, and by what they are looked up by.
#[derive(Debug, Default)]
pub(in crate::registry) struct Entries {
    table: Table<EntryId, Entry>,
    by_spiffe_id: Postings<SpiffeId>,
    by_parent: Postings<SpiffeId>,
    by_federation: Postings<TrustDomain>,
    by_selector: Postings<Selector>,
    /// Node aliases, each under one of its selectors: a node must have that one in any case.
    aliases: Postings<Selector>,
    expiring: BTreeSet<(UnixTime, Seq)>,
}

impl Entries {
    pub(in crate::registry) fn len(&self) -> usize {
        self.table.len()
    }

    pub(in crate::registry) fn by_id(&self, id: &str) -> Option<&EntryRecord> {
        self.table.by_id(id)
    }

    /// The entries with this SPIFFE ID.
    pub(in crate::registry) fn of_id(&self, id: &SpiffeId) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_spiffe_id.of(id))
    }

    /// The entries below this parent.
    pub(in crate::registry) fn below(
        &self,
        parent: &SpiffeId,
    ) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_parent.of(parent))
    }

    /// Whether anything is below this parent.
    pub(in crate::registry) fn has_below(&self, parent: &SpiffeId) -> bool {
        self.by_parent.count(parent) > 0
    }

    /// The entries that federate with this trust domain.
    pub(in crate::registry) fn federating(
        &self,
        td: &TrustDomain,
    ) -> impl Iterator<Item = &EntryRecord> {
        self.records(self.by_federation.of(td))
    }

    /// The aliases that apply to a node with these selectors.
    pub(in crate::registry) fn aliases_of<'a>(
        &'a self,
        node: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a EntryRecord> {
        node.iter()
            .flat_map(|selector| self.records(self.aliases.of(selector)))
            .filter(|alias| alias.value.selectors.is_subset_of(node))
    }

    /// Those that expired before this moment.
    pub(in crate::registry) fn expired(&self, now: UnixTime) -> Vec<EntryId> {
        self.expiring
            .range(..(now, Seq::ZERO))
            .filter_map(|(_, seq)| Some(self.table.made_by(*seq)?.value.id.clone()))
            .collect()
    }

    /// Of the next candidates those that are wanted, by the shortest way there is.
    pub(in crate::registry) fn after(
        &self,
        filter: &EntryFilter,
        after: Seq,
        limit: Limit,
    ) -> Portion<EntryRecord> {
        let wants = |entry: &Entry| filter.wants(entry);
        let shortest = self
            .ways(filter)
            .into_iter()
            .flatten()
            .min_by_key(|way| way.count);
        match shortest {
            Some(way) => portion(self.records(way.seqs_after(after)), limit, wants),
            None => self.table.portion(after, limit, wants),
        }
    }

    /// The indexes in which all entries are that the filter wants.
    fn ways<'a>(&'a self, filter: &'a EntryFilter) -> [Option<Way<'a>>; 4] {
        let selector = filter
            .selectors
            .as_ref()
            .and_then(|(how, asked)| needed(*how, asked.iter(), |s| self.by_selector.count(s)));
        let federation = filter
            .federates_with
            .as_ref()
            .and_then(|(how, asked)| needed(*how, asked.iter(), |td| self.by_federation.count(td)));
        [
            Way::by(&self.by_spiffe_id, filter.spiffe_id.as_ref()),
            Way::by(&self.by_parent, filter.parent_id.as_ref()),
            Way::by(&self.by_selector, selector),
            Way::by(&self.by_federation, federation),
        ]
    }

    pub(in crate::registry) fn put(&mut self, mut record: Record<Entry>) -> EntryRecord {
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

    pub(in crate::registry) fn remove(&mut self, id: &EntryId) {
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
            // Under which it is depends on what was there when it came.
            let _ = entry
                .selectors
                .iter()
                .any(|selector| self.aliases.take(selector, seq));
        }
        if let Some(expires_at) = entry.expires_at {
            self.expiring.remove(&(expires_at, seq));
        }
    }

    /// The selector under which the fewest aliases are: one that all of them have would make every crawl look at all.
    fn alias_selector<'a>(&self, selectors: &'a SelectorSet) -> Option<&'a Selector> {
        selectors
            .iter()
            .min_by_key(|selector| self.aliases.count(selector))
    }

    /// Lets an entry share the text of what many have in common.
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
struct Way<'a> {
    count: usize,
    list: Option<&'a List>,
}

impl<'a> Way<'a> {
    fn by<K: Eq + Hash + Clone>(index: &'a Postings<K>, key: Option<&K>) -> Option<Self> {
        let key = key?;
        Some(Self {
            count: index.count(key),
            list: index.list(key),
        })
    }

    fn seqs_after(self, after: Seq) -> impl Iterator<Item = Seq> + use<'a> {
        self.list
            .into_iter()
            .flat_map(move |list| list.after(after))
    }
}

/// Of what is asked for, that which every wanted entry has in any case and the fewest others have.
fn needed<'a, K>(
    how: Match,
    mut asked: impl ExactSizeIterator<Item = &'a K>,
    count: impl Fn(&K) -> usize,
) -> Option<&'a K> {
    match how {
        Match::Exact | Match::Superset => asked.min_by_key(|key| count(key)),
        // Any one of several will do.
        Match::Any | Match::Subset if asked.len() == 1 => asked.next(),
        Match::Any | Match::Subset => None,
    }
}
