//! The owner's state: entries, the SVIDs held for them, bundles; and what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use countersign_identity::verify::verify_svid;
use countersign_identity::{Bundle, EntryId, TrustDomain, UnixTime, X509Svid};
use tokio::time::Instant;

use super::entry::{AuthorizedEntry, Delivery};
use super::revisions::Entries;
use super::rotation::{self, Due, Moment, Rotation};
use super::snapshot::{Known, ServedEntry, ServedSvid, Snapshot};

/// Entries by the callers that hold a stream for them right now.
pub type Subscribed = HashSet<EntryId>;

/// An SVID in hand.
#[derive(Debug)]
struct Held {
    svid: Arc<ServedSvid>,
    /// The revision of the entry for which it was signed.
    revision: i64,
    renew: Due,
    /// Its authority is tainted or gone.
    withdrawn: bool,
}

/// An entry that needs a new SVID.
#[derive(Clone, Debug)]
pub struct DueEntry {
    /// The entry.
    pub entry: Arc<AuthorizedEntry>,
    /// Why.
    pub why: Why,
}

/// Why an entry needs a new SVID, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It has none, or an expired one.
    Missing,
    /// The entry has been changed since.
    Changed,
    /// Its time has come.
    Old,
    /// Its authority is being withdrawn. These may be all of them at once, so they are signed in small batches.
    Withdrawn,
}

/// What the cache is told by the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// SVIDs to hold for entries that nobody has a stream for. Beyond it, those that were asked for longest ago go.
    pub most: usize,
    /// When SVIDs are renewed.
    pub rotation: Rotation,
}

/// Everything that this node may serve. Owned by one task.
#[derive(Debug)]
pub struct Cache {
    bundle: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    entries: Entries,
    held: HashMap<EntryId, Held>,
    keeping: Keeping,
    known: Known,
    /// When entries had a stream last, in counted looks.
    asked: HashMap<EntryId, u64>,
    looks: u64,
}

impl Cache {
    /// Nothing to serve yet.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>, keeping: Keeping) -> Self {
        Self {
            bundle,
            federated: BTreeMap::new(),
            entries: Entries::new(),
            held: HashMap::new(),
            keeping,
            known: Known::FromEarlier,
            asked: HashMap::new(),
            looks: 0,
        }
    }

    /// The entries as they were last synced.
    #[must_use]
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The own bundle.
    #[must_use]
    pub const fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The bundles of foreign trust domains.
    #[must_use]
    pub const fn federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }

    /// The foreign trust domains that entries ask for.
    #[must_use]
    pub fn federates_with(entries: &Entries) -> BTreeSet<TrustDomain> {
        entries
            .values()
            .flat_map(|entry| entry.federates_with.iter().cloned())
            .collect()
    }

    /// Takes in what an earlier process kept, as far as the bundle in use still vouches for it.
    pub fn restore(
        &mut self,
        kept: impl IntoIterator<Item = (AuthorizedEntry, X509Svid)>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: Moment,
    ) {
        let sound = sound_authorities(&self.bundle);
        for (entry, svid) in kept {
            if !vouched_for(&svid, &sound, now.wall) {
                continue;
            }
            self.entries
                .insert(entry.id.clone(), Arc::new(entry.clone()));
            self.hold(&entry, svid, rotation::random_jitter(), now);
        }
        self.federated = federated;
    }

    /// Replaces the entries by a complete set. SVIDs of entries that are gone go too, and so do those of entries that now
    /// mean somebody else.
    pub fn replace_entries(&mut self, entries: Entries) {
        self.held.retain(|id, held| {
            entries
                .get(id)
                .is_some_and(|entry| entry.spiffe_id == *held.svid.svid().id())
        });
        self.asked.retain(|id, _| entries.contains_key(id));
        self.entries = entries;
        self.known = Known::FromServer;
    }

    /// Replaces the bundles. SVIDs that no sound authority vouches for any more become due at once: those that chain to
    /// one that is tainted or gone. Says whether the own bundle changed.
    pub fn replace_bundles(
        &mut self,
        bundle: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: Moment,
    ) -> bool {
        self.federated = federated;
        if self.bundle == bundle {
            return false;
        }
        let sound = sound_authorities(&bundle);
        for held in self.held.values_mut() {
            if !vouched_for(held.svid.svid(), &sound, now.wall) {
                held.renew = Due::at(now.wall, now);
                held.withdrawn = true;
            }
        }
        self.bundle = bundle;
        true
    }

    /// Notes for which entries there are streams, and lets SVIDs go that are too many: never one with a stream, and of the
    /// others those first that nobody has asked for the longest. Says whether any went.
    pub fn shed(&mut self, subscribed: &Subscribed, now: Moment) -> bool {
        self.looks += 1;
        for id in subscribed {
            if let Some(asked) = self.asked.get_mut(id) {
                *asked = self.looks;
            } else if self.entries.contains_key(id) {
                self.asked.insert(id.clone(), self.looks);
            }
        }
        let before = self.held.len();
        let entries = &self.entries;
        // What is not renewed without a caller is worth nothing once it has expired.
        self.held.retain(|id, held| {
            held.svid.svid().not_after() >= now.wall
                || subscribed.contains(id)
                || entries
                    .get(id)
                    .is_some_and(|entry| entry.delivery == Delivery::Prefetched)
        });
        if self.held.len() > self.keeping.most {
            let kept = self.kept(subscribed, |id, _| self.held.contains_key(id));
            let kept: HashSet<EntryId> = kept.into_iter().cloned().collect();
            self.held.retain(|id, _| kept.contains(id));
        }
        self.held.len() != before
    }

    /// The entries that may have an SVID: those with a stream, and of the others that `may` those that were asked for
    /// last, as many as there is room for.
    fn kept<'a>(
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
                (std::cmp::Reverse((asked, self.held.contains_key(id))), id)
            })
            .collect();
        let mut kept: HashSet<&EntryId> = subscribed.iter().collect();
        let room = self.keeping.most.saturating_sub(kept.len());
        if others.len() > room {
            others.sort_unstable();
            others.truncate(room);
        }
        kept.extend(others.into_iter().map(|(_, id)| id));
        kept
    }

    /// The entries for which SVIDs are to be held ready.
    fn needed<'a>(
        &'a self,
        subscribed: &'a Subscribed,
    ) -> impl Iterator<Item = &'a Arc<AuthorizedEntry>> {
        let kept = self.kept(subscribed, |_, entry| {
            entry.delivery == Delivery::Prefetched
        });
        self.entries
            .values()
            .filter(move |entry| entry.delivery != Delivery::Stored && kept.contains(&entry.id))
    }

    /// The entries that need a new SVID, the most urgent first.
    #[must_use]
    pub fn due(&self, now: Moment, subscribed: &Subscribed) -> Vec<DueEntry> {
        let mut due: Vec<(Why, UnixTime, &Arc<AuthorizedEntry>)> = self
            .needed(subscribed)
            .filter_map(|entry| {
                let (why, at) = self.due_at(entry, now);
                at.is_none_or(|at| at.has_come(now))
                    .then(|| (why, at.map(Due::wall).unwrap_or_default(), entry))
            })
            .collect();
        due.sort_by_key(|(why, at, _)| (*why, *at));
        due.into_iter()
            .map(|(why, _, entry)| DueEntry {
                entry: Arc::clone(entry),
                why,
            })
            .collect()
    }

    /// When the next SVID is due, of those that are withdrawn or of the others.
    #[must_use]
    pub fn next_due(
        &self,
        now: Moment,
        subscribed: &Subscribed,
        withdrawn: bool,
    ) -> Option<Instant> {
        self.needed(subscribed)
            .map(|entry| self.due_at(entry, now))
            .filter(|(why, _)| (*why == Why::Withdrawn) == withdrawn)
            .map(|(_, at)| at.map_or(now.steady, |at| at.instant(now)))
            .min()
    }

    /// Why a new SVID will be needed, and when; now if that is `None`.
    fn due_at(&self, entry: &AuthorizedEntry, now: Moment) -> (Why, Option<Due>) {
        match self.held.get(&entry.id) {
            None => (Why::Missing, None),
            Some(held) if held.svid.svid().not_after() < now.wall => {
                (Why::Missing, Some(held.renew))
            }
            Some(held) if held.revision != entry.revision => (Why::Changed, None),
            Some(held) if held.withdrawn => (Why::Withdrawn, Some(held.renew)),
            Some(held) => (Why::Old, Some(held.renew)),
        }
    }

    /// Takes a newly signed SVID in, unless the entry has gone or means somebody else by now. Says whether it did.
    pub fn hold(
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
            .keeping
            .rotation
            .renew_at(svid.not_before(), svid.not_after(), jitter)
            .max(soonest);
        let held = Held {
            svid: Arc::new(ServedSvid::new(svid)),
            revision: entry.revision,
            renew: Due::at(renew_at, now),
            withdrawn: false,
        };
        self.held.insert(entry.id.clone(), held);
        true
    }

    /// Whether there is an SVID for this entry, expired or not.
    #[must_use]
    pub fn holds(&self, entry: &EntryId) -> bool {
        self.held.contains_key(entry)
    }

    /// When the first of the SVIDs expires that are held and have not expired.
    #[must_use]
    pub fn first_expiry(&self, now: UnixTime) -> Option<UnixTime> {
        let ends = self.held.values().map(|held| held.svid.svid().not_after());
        ends.filter(|end| *end >= now).min()
    }

    /// How many of the SVIDs that are held have not expired.
    #[must_use]
    pub fn valid(&self, now: UnixTime) -> usize {
        let valid = |held: &&Held| held.svid.svid().not_after() >= now;
        self.held.values().filter(valid).count()
    }

    /// Whether it matters to what is signed who has a stream.
    #[must_use]
    pub fn depends_on_callers(&self) -> bool {
        self.entries.len() > self.keeping.most
            || self
                .entries
                .values()
                .any(|entry| entry.delivery == Delivery::OnDemand)
    }

    /// What is held, with its entries: for the disk.
    pub fn held(&self) -> impl Iterator<Item = (&Arc<AuthorizedEntry>, &Arc<ServedSvid>)> {
        self.entries.values().filter_map(|entry| {
            let held = self.held.get(&entry.id)?;
            (held.revision == entry.revision).then_some((entry, &held.svid))
        })
    }

    /// What can be served now. An SVID that has expired is no better than none.
    #[must_use]
    pub fn snapshot(&self, now: UnixTime) -> Snapshot {
        let entries = self.entries.values().map(|entry| ServedEntry {
            entry: Arc::clone(entry),
            svid: self
                .held
                .get(&entry.id)
                .filter(|held| held.svid.svid().not_after() >= now)
                .map(|held| Arc::clone(&held.svid)),
        });
        Snapshot::new(
            Arc::clone(&self.bundle),
            entries,
            self.federated.clone(),
            self.known,
        )
    }
}

fn sound_authorities(bundle: &Bundle) -> Bundle {
    let mut sound = bundle.clone();
    sound
        .x509_authorities
        .retain(|authority| !authority.is_tainted());
    sound
}

fn vouched_for(svid: &X509Svid, bundle: &Bundle, now: UnixTime) -> bool {
    svid.chain()
        .split_first()
        .is_some_and(|(leaf, above)| verify_svid(leaf, above, bundle, now).is_ok())
}

/// Whether the SVID chains to an authority of the bundle that is not tainted.
#[must_use]
pub fn is_sound(svid: &X509Svid, bundle: &Bundle, now: UnixTime) -> bool {
    vouched_for(svid, &sound_authorities(bundle), now)
}

#[cfg(test)]
mod tests;
