//! Entries, with the indexes that the crawl and the filters use.

use std::collections::BTreeSet;

use countersign_identity::{
    Entry, EntryId, Selector, SelectorSet, SpiffeId, TrustDomain, UnixTime,
};

use super::postings::Postings;
use super::table::{Table, portion};
use super::{EntryRecord, Portion};
use crate::registry::filter::{EntryFilter, Match};
use crate::store::Record;
use crate::store::backend::Seq;

/// Entries by their ID, by when they were made, and by what they are looked up by.
#[derive(Debug, Default)]
pub(in crate::registry) struct Entries {
    table: Table<EntryId, Entry>,
    by_spiffe_id: Postings<SpiffeId>,
    by_parent: Postings<SpiffeId>,
    by_federation: Postings<TrustDomain>,
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
        candidates: usize,
    ) -> Portion<EntryRecord> {
        let by_id = filter.spiffe_id.as_ref().map(|id| {
            let count = self.by_spiffe_id.count(id);
            (count, Way::Id(id))
        });
        let by_parent = filter.parent_id.as_ref().map(|id| {
            let count = self.by_parent.count(id);
            (count, Way::Parent(id))
        });
        let by_federation = self.rarest_federation(filter).map(|td| {
            let count = self.by_federation.count(td);
            (count, Way::Federation(td))
        });
        let shortest = [by_id, by_parent, by_federation]
            .into_iter()
            .flatten()
            .min_by_key(|(count, _)| *count);
        let wants = |entry: &Entry| filter.wants(entry);
        match shortest {
            Some((_, Way::Id(id))) => {
                let next = self.records(self.by_spiffe_id.after(id, after));
                portion(next, candidates, wants)
            }
            Some((_, Way::Parent(id))) => {
                let next = self.records(self.by_parent.after(id, after));
                portion(next, candidates, wants)
            }
            Some((_, Way::Federation(td))) => {
                let next = self.records(self.by_federation.after(td, after));
                portion(next, candidates, wants)
            }
            None => self.table.portion(after, candidates, wants),
        }
    }

    /// A trust domain with which an entry that is wanted federates in any case, and as few others as possible.
    fn rarest_federation<'a>(&self, filter: &'a EntryFilter) -> Option<&'a TrustDomain> {
        let (how, asked) = filter.federates_with.as_ref()?;
        match how {
            Match::Exact | Match::Superset => {
                asked.iter().min_by_key(|td| self.by_federation.count(td))
            }
            // Any one of several will do.
            Match::Any | Match::Subset => asked.first().filter(|_| asked.len() == 1),
        }
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
    }

    fn records(&self, seqs: impl Iterator<Item = Seq>) -> impl Iterator<Item = &EntryRecord> {
        seqs.filter_map(|seq| self.table.made_by(seq))
    }
}

/// By which index a list is made.
enum Way<'a> {
    Id(&'a SpiffeId),
    Parent(&'a SpiffeId),
    Federation(&'a TrustDomain),
}
