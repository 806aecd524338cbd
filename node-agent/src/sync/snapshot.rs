//! What callers are served from: entries, SVIDs and bundles at one moment, immutable.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::{Bundle, EntryId, Selector, SelectorSet, TrustDomain};

use crate::entry::{AuthorizedEntry, Delivery};
use crate::svid::ServedSvid;

/// An entry with its SVID, once that is signed.
#[derive(Clone, Debug)]
pub struct ServedEntry {
    /// The entry.
    pub entry: Arc<AuthorizedEntry>,
    /// Its SVID; `None` while it is not signed, or has expired.
    pub svid: Option<Arc<ServedSvid>>,
}

impl ServedEntry {
    fn is_same(&self, other: &Self) -> bool {
        let same_svid = match (&self.svid, &other.svid) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_svid
            && (Arc::ptr_eq(&self.entry, &other.entry) || self.entry.serves_like(&other.entry))
    }
}

/// Whether all entries of this node are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntrySource {
    /// No: these were kept by an earlier process, and the server has not been asked yet. That an entry is missing means
    /// nothing.
    Disk,
    /// Yes, as of the last sync.
    Server,
}

/// A bundle in the forms in which callers get it.
#[derive(Debug)]
struct ServedBundle {
    bundle: Arc<Bundle>,
    x509: Bytes,
}

impl From<Arc<Bundle>> for ServedBundle {
    fn from(bundle: Arc<Bundle>) -> Self {
        let x509 = bundle.x509_der().into();
        Self { bundle, x509 }
    }
}

/// All that can be served at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// In order of entry ID, without those that are stored.
    entries: Vec<ServedEntry>,
    /// Entries by one of their selectors, without which a caller can't match.
    by_selector: HashMap<Selector, Vec<usize>>,
    own: ServedBundle,
    federated: BTreeMap<TrustDomain, ServedBundle>,
    known: EntrySource,
}

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum WorkloadAnswer {
    /// No entry matches.
    NoIdentity,
    /// Entries match, and not all of their SVIDs are signed yet.
    NotSigned,
    /// These, in order of entry ID, and the bundles that they need. Never empty.
    Identities(Vec<(Arc<AuthorizedEntry>, Arc<ServedSvid>)>),
}

impl Snapshot {
    /// `entries` in any order.
    #[must_use]
    pub fn new(
        bundle: Arc<Bundle>,
        entries: impl IntoIterator<Item = ServedEntry>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        known: EntrySource,
    ) -> Self {
        let mut entries: Vec<_> = entries
            .into_iter()
            .filter(|served| served.entry.delivery != Delivery::Stored)
            .collect();
        entries.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
        let mut by_selector: HashMap<Selector, Vec<usize>> = HashMap::new();
        for (index, served) in entries.iter().enumerate() {
            // The last in order is seldom the user or group, which most callers share.
            if let Some(selector) = served.entry.selectors.iter().next_back() {
                by_selector.entry(selector.clone()).or_default().push(index);
            }
        }
        Self {
            entries,
            by_selector,
            own: bundle.into(),
            federated: federated
                .into_iter()
                .map(|(td, bundle)| (td, bundle.into()))
                .collect(),
            known,
        }
    }

    /// Whether all entries are known, so that a caller who matches none has no identity.
    #[must_use]
    pub(crate) const fn known(&self) -> EntrySource {
        self.known
    }

    /// The own trust domain.
    #[must_use]
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.own.bundle.trust_domain
    }

    /// The own roots, in DER one after the other.
    #[must_use]
    pub(crate) const fn bundle(&self) -> &Bytes {
        &self.own.x509
    }

    /// The own bundle, whole.
    #[must_use]
    pub(crate) const fn own_bundle(&self) -> &Arc<Bundle> {
        &self.own.bundle
    }

    /// All foreign bundles, whole.
    pub(crate) fn foreign_bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.federated.values().map(|served| &served.bundle)
    }

    /// All entries that match, in order of ID.
    pub(crate) fn matching(&self, selectors: &SelectorSet) -> Vec<&ServedEntry> {
        let candidates: BTreeSet<usize> = selectors
            .iter()
            .filter_map(|s| self.by_selector.get(s))
            .flatten()
            .copied()
            .collect();
        candidates
            .into_iter()
            .filter_map(|index| self.entries.get(index))
            .filter(|served| served.entry.selectors.is_subset_of(selectors))
            .collect()
    }

    /// What a caller with these selectors gets.
    #[must_use]
    pub(crate) fn answer(&self, selectors: &SelectorSet) -> WorkloadAnswer {
        let matching = self.matching(selectors);
        if matching.is_empty() {
            return WorkloadAnswer::NoIdentity;
        }
        let with_svid = |served: &&ServedEntry| {
            served
                .svid
                .as_ref()
                .map(|svid| (Arc::clone(&served.entry), Arc::clone(svid)))
        };
        match matching.iter().map(with_svid).collect::<Option<Vec<_>>>() {
            None => WorkloadAnswer::NotSigned,
            Some(mut identities) => {
                let kept = one_per_hint(identities.iter().map(|(entry, _)| &**entry));
                identities.retain(|(entry, _)| kept.contains(entry.id.as_str()));
                WorkloadAnswer::Identities(identities)
            }
        }
    }

    /// The bundles of the foreign trust domains that the caller's entries federate with, as far as they are known.
    #[must_use]
    pub(crate) fn federated(&self, selectors: &SelectorSet) -> BTreeMap<&TrustDomain, &Bytes> {
        self.matching(selectors)
            .into_iter()
            .flat_map(|served| &served.entry.federates_with)
            .filter_map(|td| self.federated.get_key_value(td))
            .map(|(td, served)| (td, &served.x509))
            .collect()
    }

    /// As [`Snapshot::federated`], whole.
    #[must_use]
    pub(crate) fn federated_bundles(&self, selectors: &SelectorSet) -> Vec<&Arc<Bundle>> {
        let wanted: BTreeSet<&TrustDomain> = self
            .matching(selectors)
            .into_iter()
            .flat_map(|served| &served.entry.federates_with)
            .collect();
        wanted
            .into_iter()
            .filter_map(|td| Some(&self.federated.get(td)?.bundle))
            .collect()
    }

    /// The entries that match, in order of ID, one for each hint.
    #[must_use]
    pub(crate) fn one_per_hint(&self, selectors: &SelectorSet) -> Vec<Arc<AuthorizedEntry>> {
        let matching = self.matching(selectors);
        let kept = one_per_hint(matching.iter().map(|served| &*served.entry));
        matching
            .into_iter()
            .filter(|served| kept.contains(served.entry.id.as_str()))
            .map(|served| Arc::clone(&served.entry))
            .collect()
    }

    /// How many SVIDs are there.
    #[must_use]
    pub(crate) fn signed(&self) -> usize {
        self.entries
            .iter()
            .filter(|served| served.svid.is_some())
            .count()
    }

    /// What changed since an earlier snapshot.
    #[must_use]
    pub(crate) fn changes_since(&self, earlier: &Self) -> Changes {
        let mut entries = HashSet::new();
        let (mut old, mut new) = (
            earlier.entries.iter().peekable(),
            self.entries.iter().peekable(),
        );
        loop {
            let changed = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a.entry.id == b.entry.id => {
                    let same = a.is_same(b);
                    old.next();
                    new.next().filter(|_| !same)
                }
                (Some(a), Some(b)) if a.entry.id < b.entry.id => old.next(),
                (Some(_), None) => old.next(),
                (_, Some(_)) => new.next(),
            };
            entries.extend(changed.map(|served| served.entry.id.clone()));
        }
        let differ = |td: &&TrustDomain| {
            let bundle = |snapshot: &Self| {
                let served = snapshot.federated.get(*td)?;
                Some(Arc::clone(&served.bundle))
            };
            bundle(earlier) != bundle(self)
        };
        let all = earlier.federated.keys().chain(self.federated.keys());
        Changes {
            entries,
            every_caller: earlier.own.bundle != self.own.bundle || earlier.known != self.known,
            federated: all.filter(differ).cloned().collect(),
        }
    }
}

/// What changed between two snapshots, as far as it decides which callers it concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// All entries that came, went or changed, or whose SVID did.
    entries: HashSet<EntryId>,
    /// The own bundle or the source of the entries changed: that concerns every caller.
    every_caller: bool,
    /// Foreign bundles that came, went or changed.
    federated: HashSet<TrustDomain>,
}

impl Changes {
    /// Whether a caller with these selectors gets something else now than before.
    #[must_use]
    pub(crate) fn concern(&self, caller: &SelectorSet, before: &Snapshot, now: &Snapshot) -> bool {
        let changed = |served: &&ServedEntry| {
            let entry = &served.entry;
            self.entries.contains(&entry.id)
                || entry
                    .federates_with
                    .iter()
                    .any(|td| self.federated.contains(td))
        };
        // What a caller matches is looked up by its selectors: thousands of streams and of changed entries don't multiply.
        self.every_caller
            || now.matching(caller).iter().any(changed)
            || before.matching(caller).iter().any(changed)
    }

    /// Whether nothing changed.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Of entries that share a hint only the oldest is sent, and of these that with the smaller ID; entries without a hint
/// all are (wire contract, F.3). The IDs of those that are kept.
fn one_per_hint<'a>(entries: impl Iterator<Item = &'a AuthorizedEntry> + Clone) -> HashSet<String> {
    let mut by_hint: HashMap<&str, &AuthorizedEntry> = HashMap::new();
    for entry in entries.clone().filter(|entry| !entry.hint.is_empty()) {
        let kept = by_hint.entry(&entry.hint).or_insert(entry);
        if (entry.created_at, &entry.id) < (kept.created_at, &kept.id) {
            *kept = entry;
        }
    }
    entries
        .filter(|entry| {
            by_hint
                .get(&*entry.hint)
                .is_none_or(|kept| kept.id == entry.id)
        })
        .map(|entry| entry.id.to_string())
        .collect()
}

#[cfg(test)]
mod tests;
