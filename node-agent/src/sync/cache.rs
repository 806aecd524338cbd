//! The syncer's state: entries, their SVIDs, bundles; and what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use countersign_identity::{Bundle, EntryId, TrustDomain, UnixTime, X509Svid};
use tokio::time::Instant;

use super::revisions::Entries;
use super::snapshot::{EntrySource, ServedEntry, Snapshot};
use crate::entry::{AuthorizedEntry, Delivery};
use crate::rotation::{self, Due, Moment, Rotation};
use crate::svid::{ServedSvid, UntaintedAuthorities};

/// Entries for which callers have an open stream.
pub(crate) type Subscribed = HashSet<EntryId>;

/// An SVID and when to renew it.
#[derive(Debug)]
struct CachedSvid {
    svid: Arc<ServedSvid>,
    /// The revision of the entry for which it was signed.
    revision: i64,
    renew: Due,
    /// Its authority is tainted, or gone from the bundle.
    tainted: bool,
}

/// An entry that needs a new SVID.
#[derive(Clone, Debug)]
pub(crate) struct DueEntry {
    /// The entry.
    pub(crate) entry: Arc<AuthorizedEntry>,
    /// Why.
    pub(crate) reason: RenewReason,
}

/// Why an entry needs a new SVID, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RenewReason {
    /// There is no SVID, or it has expired.
    Missing,
    /// The entry was changed after it was signed.
    EntryChanged,
    /// Its renewal is due.
    Scheduled,
    /// Its authority is tainted, or gone from the bundle. That may concern every SVID at once, so they are signed in small
    /// batches.
    Tainted,
}

/// The limits of the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheConfig {
    /// SVIDs to cache for entries without a stream. Beyond it the least recently asked for are evicted.
    pub(crate) max_svids: usize,
    /// When SVIDs are renewed.
    pub(crate) rotation: Rotation,
}

/// Everything that this node may serve.
#[derive(Debug)]
pub(crate) struct SvidCache {
    bundle: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    entries: Entries,
    svids: HashMap<EntryId, CachedSvid>,
    config: CacheConfig,
    known: EntrySource,
    /// The last eviction round at which an entry had a stream.
    asked: HashMap<EntryId, u64>,
    looks: u64,
}

impl SvidCache {
    /// Nothing to serve yet.
    #[must_use]
    pub(crate) fn new(bundle: Arc<Bundle>, config: CacheConfig) -> Self {
        Self {
            bundle,
            federated: BTreeMap::new(),
            entries: Entries::new(),
            svids: HashMap::new(),
            config,
            known: EntrySource::Disk,
            asked: HashMap::new(),
            looks: 0,
        }
    }

    /// The entries as they were last synced.
    #[must_use]
    pub(crate) const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The bundles of foreign trust domains.
    #[must_use]
    pub(crate) const fn federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }

    /// The foreign trust domains that entries ask for.
    #[must_use]
    pub(crate) fn federates_with(entries: &Entries) -> BTreeSet<TrustDomain> {
        entries
            .values()
            .flat_map(|entry| entry.federates_with.iter().cloned())
            .collect()
    }

    /// Takes in what an earlier process wrote, as far as an untainted authority of the bundle vouches for it.
    pub(crate) fn restore(
        &mut self,
        kept: impl IntoIterator<Item = (AuthorizedEntry, X509Svid)>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: Moment,
    ) {
        let untainted = UntaintedAuthorities::of(&self.bundle);
        for (entry, svid) in kept {
            if !untainted.vouch_for(&svid, now.wall) {
                continue;
            }
            self.entries
                .insert(entry.id.clone(), Arc::new(entry.clone()));
            self.insert(&entry, svid, rotation::random_jitter(), now);
        }
        self.federated = federated;
    }

    /// Replaces the entries by a complete set. SVIDs of entries that are gone are dropped, and so are those of entries
    /// whose SPIFFE ID changed.
    pub(crate) fn replace_entries(&mut self, entries: Entries) {
        self.svids.retain(|id, cached| {
            entries
                .get(id)
                .is_some_and(|entry| entry.spiffe_id == *cached.svid.svid().id())
        });
        self.asked.retain(|id, _| entries.contains_key(id));
        self.entries = entries;
        self.known = EntrySource::Server;
    }

    /// Replaces the bundles. SVIDs whose authority is tainted or gone become due at once. Whether the own bundle changed.
    pub(crate) fn replace_bundles(
        &mut self,
        bundle: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: Moment,
    ) -> bool {
        self.federated = federated;
        if self.bundle == bundle {
            return false;
        }
        let untainted = UntaintedAuthorities::of(&bundle);
        for cached in self.svids.values_mut() {
            if !untainted.vouch_for(cached.svid.svid(), now.wall) {
                cached.renew = Due::at(now.wall, now);
                cached.tainted = true;
            }
        }
        self.bundle = bundle;
        true
    }

    /// Notes for which entries there are streams, and evicts SVIDs beyond the limit: never one with a stream, and of the
    /// others the least recently asked for. Whether any was evicted.
    pub(crate) fn evict(&mut self, subscribed: &Subscribed, now: Moment) -> bool {
        self.looks += 1;
        for id in subscribed {
            if let Some(asked) = self.asked.get_mut(id) {
                *asked = self.looks;
            } else if self.entries.contains_key(id) {
                self.asked.insert(id.clone(), self.looks);
            }
        }
        let before = self.svids.len();
        let entries = &self.entries;
        // An SVID that is not renewed without a caller is of no use once it has expired.
        self.svids.retain(|id, cached| {
            cached.svid.svid().not_after() >= now.wall
                || subscribed.contains(id)
                || entries
                    .get(id)
                    .is_some_and(|entry| entry.delivery == Delivery::Prefetched)
        });
        if self.svids.len() > self.config.max_svids {
            let kept = self.retained(subscribed, |id, _| self.svids.contains_key(id));
            let kept: HashSet<EntryId> = kept.into_iter().cloned().collect();
            self.svids.retain(|id, _| kept.contains(id));
        }
        self.svids.len() != before
    }

    /// The entries that may have an SVID: those with a stream, and of the others that `may` those that were asked for
    /// last, as many as there is room for.
    fn retained<'a>(
        &'a self,
        subscribed: &'a Subscribed,
        may: impl Fn(&EntryId, &AuthorizedEntry) -> bool,
    ) -> HashSet<&'a EntryId> {
        let mut others: Vec<_> = self
            .entries
            .iter()
            .filter(|(id, entry)| {
                entry.delivery != Delivery::Stored && !subscribed.contains(*id) && may(id, entry)
            })
            .map(|(id, _)| {
                let asked = self.asked.get(id).copied().unwrap_or_default();
                (std::cmp::Reverse((asked, self.svids.contains_key(id))), id)
            })
            .collect();
        let mut kept: HashSet<&EntryId> = subscribed.iter().collect();
        let room = self.config.max_svids.saturating_sub(kept.len());
        if others.len() > room {
            others.sort_unstable();
            others.truncate(room);
        }
        kept.extend(others.into_iter().map(|(_, id)| id));
        kept
    }

    /// The entries that should have an SVID.
    fn wanted<'a>(
        &'a self,
        subscribed: &'a Subscribed,
    ) -> impl Iterator<Item = &'a Arc<AuthorizedEntry>> {
        let kept = self.retained(subscribed, |_, entry| {
            entry.delivery == Delivery::Prefetched
        });
        self.entries
            .values()
            .filter(move |entry| entry.delivery != Delivery::Stored && kept.contains(&entry.id))
    }

    /// The entries that need a new SVID, the most urgent first.
    #[must_use]
    pub(crate) fn due(&self, now: Moment, subscribed: &Subscribed) -> Vec<DueEntry> {
        let mut due: Vec<(RenewReason, UnixTime, &Arc<AuthorizedEntry>)> = self
            .wanted(subscribed)
            .filter_map(|entry| {
                let (reason, at) = self.due_at(entry, now);
                at.is_none_or(|at| at.has_come(now))
                    .then(|| (reason, at.map(Due::wall).unwrap_or_default(), entry))
            })
            .collect();
        due.sort_by_key(|(reason, at, _)| (*reason, *at));
        due.into_iter()
            .map(|(reason, _, entry)| DueEntry {
                entry: Arc::clone(entry),
                reason,
            })
            .collect()
    }

    /// When the next SVID is due, of those that are tainted or of the others.
    #[must_use]
    pub(crate) fn next_due(
        &self,
        now: Moment,
        subscribed: &Subscribed,
        tainted: bool,
    ) -> Option<Instant> {
        self.wanted(subscribed)
            .map(|entry| self.due_at(entry, now))
            .filter(|(reason, _)| (*reason == RenewReason::Tainted) == tainted)
            .map(|(_, at)| at.map_or(now.steady, |at| at.instant(now)))
            .min()
    }

    /// Why a new SVID will be needed, and when; now if that is `None`.
    fn due_at(&self, entry: &AuthorizedEntry, now: Moment) -> (RenewReason, Option<Due>) {
        match self.svids.get(&entry.id) {
            None => (RenewReason::Missing, None),
            Some(cached) if cached.svid.svid().not_after() < now.wall => {
                (RenewReason::Missing, Some(cached.renew))
            }
            Some(cached) if cached.revision != entry.revision => (RenewReason::EntryChanged, None),
            Some(cached) if cached.tainted => (RenewReason::Tainted, Some(cached.renew)),
            Some(cached) => (RenewReason::Scheduled, Some(cached.renew)),
        }
    }

    /// Takes a newly signed SVID in, unless its entry is gone or has another SPIFFE ID by now. Whether it did.
    pub(crate) fn insert(
        &mut self,
        entry: &AuthorizedEntry,
        svid: X509Svid,
        jitter: f64,
        now: Moment,
    ) -> bool {
        let Some(current) = self.entries.get(&entry.id) else {
            return false;
        };
        if current.spiffe_id != *svid.id() {
            return false;
        }
        let soonest = rotation::earliest(svid.not_after(), now.wall);
        let renew_at = self
            .config
            .rotation
            .renew_at(svid.not_before(), svid.not_after(), jitter)
            .max(soonest);
        let cached = CachedSvid {
            svid: Arc::new(ServedSvid::new(svid)),
            revision: entry.revision,
            renew: Due::at(renew_at, now),
            tainted: false,
        };
        self.svids.insert(entry.id.clone(), cached);
        true
    }

    /// Whether there is an SVID for this entry, expired or not.
    #[must_use]
    pub(crate) fn contains(&self, entry: &EntryId) -> bool {
        self.svids.contains_key(entry)
    }

    /// The earliest expiry of the valid SVIDs.
    #[must_use]
    pub(crate) fn first_expiry(&self, now: UnixTime) -> Option<UnixTime> {
        let ends = self
            .svids
            .values()
            .map(|cached| cached.svid.svid().not_after());
        ends.filter(|end| *end >= now).min()
    }

    /// How many SVIDs are valid.
    #[must_use]
    pub(crate) fn valid(&self, now: UnixTime) -> usize {
        let valid = |cached: &&CachedSvid| cached.svid.svid().not_after() >= now;
        self.svids.values().filter(valid).count()
    }

    /// Whether streams decide which SVIDs are signed.
    #[must_use]
    pub(crate) fn depends_on_callers(&self) -> bool {
        self.entries.len() > self.config.max_svids
            || self
                .entries
                .values()
                .any(|entry| entry.delivery == Delivery::OnDemand)
    }

    /// The SVIDs that were signed for the current revision of their entry: for the disk.
    pub(crate) fn current(
        &self,
    ) -> impl Iterator<Item = (&Arc<AuthorizedEntry>, &Arc<ServedSvid>)> {
        self.entries.values().filter_map(|entry| {
            let cached = self.svids.get(&entry.id)?;
            (cached.revision == entry.revision).then_some((entry, &cached.svid))
        })
    }

    /// What can be served now. An SVID that has expired is no better than none.
    #[must_use]
    pub(crate) fn snapshot(&self, now: UnixTime) -> Snapshot {
        let entries = self.entries.values().map(|entry| ServedEntry {
            entry: Arc::clone(entry),
            svid: self
                .svids
                .get(&entry.id)
                .filter(|cached| cached.svid.svid().not_after() >= now)
                .map(|cached| Arc::clone(&cached.svid)),
        });
        Snapshot::new(
            Arc::clone(&self.bundle),
            entries,
            self.federated.clone(),
            self.known,
        )
    }
}

#[cfg(test)]
mod tests;
