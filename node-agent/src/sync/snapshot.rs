//! What callers are served from: one immutable picture of entries, SVIDs and bundles.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::{Selector, SelectorSet, TrustDomain, X509Svid};

use super::entry::{AuthorizedEntry, Delivery};

/// An SVID in the form of the Workload API.
#[derive(Debug)]
pub struct ServedSvid {
    svid: X509Svid,
    chain: Bytes,
    /// PKCS#8; wiped when the last reader lets go.
    key: Bytes,
}

impl ServedSvid {
    /// Encodes an SVID once for all callers.
    #[must_use]
    pub fn new(svid: X509Svid) -> Self {
        let chain = svid.chain_der().into();
        let key = Bytes::from_owner(svid.key().to_pkcs8());
        Self { svid, chain, key }
    }

    /// The SVID itself.
    #[must_use]
    pub const fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// The chain, leaf first, as one piece of DER.
    #[must_use]
    pub const fn chain(&self) -> &Bytes {
        &self.chain
    }

    /// The private key in PKCS#8 DER.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.key
    }
}

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

/// All that can be served at one moment.
#[derive(Debug)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    /// In order of entry ID, without those that are stored.
    entries: Vec<ServedEntry>,
    /// One selector of each entry: whoever lacks it can't match the entry.
    by_selector: HashMap<Selector, Vec<usize>>,
    bundle: Bytes,
    federated: BTreeMap<TrustDomain, Bytes>,
}

/// What a caller gets.
#[derive(Debug)]
pub enum Answer {
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
        trust_domain: TrustDomain,
        entries: impl IntoIterator<Item = ServedEntry>,
        bundle: Bytes,
        federated: BTreeMap<TrustDomain, Bytes>,
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
            trust_domain,
            entries,
            by_selector,
            bundle,
            federated,
        }
    }

    /// The own trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The own roots, in DER one after the other.
    #[must_use]
    pub const fn bundle(&self) -> &Bytes {
        &self.bundle
    }

    /// All entries that match, in order of ID.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<&ServedEntry> {
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
    pub fn answer(&self, selectors: &SelectorSet) -> Answer {
        let matching = self.matching(selectors);
        if matching.is_empty() {
            return Answer::NoIdentity;
        }
        let with_svid = |served: &&ServedEntry| {
            served
                .svid
                .as_ref()
                .map(|svid| (Arc::clone(&served.entry), Arc::clone(svid)))
        };
        match matching.iter().map(with_svid).collect::<Option<Vec<_>>>() {
            None => Answer::NotSigned,
            Some(mut identities) => {
                let kept = one_per_hint(identities.iter().map(|(entry, _)| &**entry));
                identities.retain(|(entry, _)| kept.contains(entry.id.as_str()));
                Answer::Identities(identities)
            }
        }
    }

    /// The bundles of the foreign trust domains that the caller's entries federate with, as far as they are known.
    #[must_use]
    pub fn federated(&self, selectors: &SelectorSet) -> BTreeMap<&TrustDomain, &Bytes> {
        self.matching(selectors)
            .into_iter()
            .flat_map(|served| &served.entry.federates_with)
            .filter_map(|td| self.federated.get_key_value(td))
            .collect()
    }

    /// What is different in `self` from the earlier picture.
    #[must_use]
    pub fn changes_since(&self, earlier: &Self) -> Changes {
        let mut selectors = Vec::new();
        let (mut old, mut new) = (
            earlier.entries.iter().peekable(),
            self.entries.iter().peekable(),
        );
        loop {
            let changed = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a.entry.id == b.entry.id => {
                    let same = a.is_same(b);
                    let both = (old.next(), new.next());
                    if same { [None, None] } else { [both.0, both.1] }
                }
                (Some(a), Some(b)) if a.entry.id < b.entry.id => [old.next(), None],
                (Some(_), None) => [old.next(), None],
                (_, Some(_)) => [None, new.next()],
            };
            selectors.extend(
                changed
                    .into_iter()
                    .flatten()
                    .map(|served| served.entry.selectors.clone()),
            );
        }
        let federated = earlier
            .federated
            .keys()
            .chain(self.federated.keys())
            .filter(|td| earlier.federated.get(*td) != self.federated.get(*td))
            .cloned()
            .collect();
        Changes {
            selectors,
            bundle: earlier.bundle != self.bundle,
            federated,
        }
    }
}

/// What changed between two pictures, as far as it decides whom it concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Selectors of all entries that came, went or changed, or whose SVID did.
    selectors: Vec<SelectorSet>,
    /// The own bundle changed: that concerns everybody.
    bundle: bool,
    /// Foreign bundles that came, went or changed.
    federated: HashSet<TrustDomain>,
}

impl Changes {
    /// Whether a caller with these selectors gets something else now.
    #[must_use]
    pub fn concern(&self, caller: &SelectorSet, now: &Snapshot) -> bool {
        self.bundle
            || self
                .selectors
                .iter()
                .any(|entry| entry.is_subset_of(caller))
            || (!self.federated.is_empty()
                && now
                    .matching(caller)
                    .iter()
                    .flat_map(|served| &served.entry.federates_with)
                    .any(|td| self.federated.contains(td)))
    }

    /// Whether nothing changed for anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
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
