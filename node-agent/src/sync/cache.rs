//! The owner's state: entries, the SVIDs held for them, bundles; and what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use countersign_identity::verify::verify_svid;
use countersign_identity::{Bundle, EntryId, SelectorSet, TrustDomain, UnixTime, X509Svid};

use super::entry::{AuthorizedEntry, Delivery};
use super::revisions::Entries;
use super::rotation;
use super::snapshot::{Known, ServedEntry, ServedSvid, Snapshot};

/// An SVID in hand.
#[derive(Debug)]
struct Held {
    svid: Arc<ServedSvid>,
    /// The revision of the entry for which it was signed.
    revision: i64,
    renew_at: UnixTime,
}

/// Everything that this node may serve. Owned by one task.
#[derive(Debug)]
pub struct Cache {
    bundle: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    entries: Entries,
    held: HashMap<EntryId, Held>,
}

impl Cache {
    /// Nothing to serve yet.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self {
            bundle,
            federated: BTreeMap::new(),
            entries: Entries::new(),
            held: HashMap::new(),
        }
    }

    /// The entries as they were last synced.
    #[must_use]
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The foreign trust domains that entries ask for.
    #[must_use]
    pub fn federates_with(entries: &Entries) -> BTreeSet<TrustDomain> {
        entries
            .values()
            .flat_map(|entry| entry.federates_with.iter().cloned())
            .collect()
    }

    /// Replaces the entries by a complete set. SVIDs of entries that are gone go too, and so do those of entries that now
    /// mean somebody else.
    pub fn replace_entries(&mut self, entries: Entries) {
        self.held.retain(|id, held| {
            entries
                .get(id)
                .is_some_and(|entry| entry.spiffe_id == *held.svid.svid().id())
        });
        self.entries = entries;
    }

    /// Replaces the bundles. SVIDs that no sound authority vouches for any more become due at once: those that chain to
    /// one that is tainted or gone. Says whether the own bundle changed.
    pub fn replace_bundles(
        &mut self,
        bundle: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: UnixTime,
    ) -> bool {
        self.federated = federated;
        if self.bundle == bundle {
            return false;
        }
        let sound = sound_authorities(&bundle);
        for held in self.held.values_mut() {
            if !vouched_for(held.svid.svid(), &sound, now) {
                held.renew_at = now;
            }
        }
        self.bundle = bundle;
        true
    }

    /// The entries that need a new SVID: those that have none first, then those whose time has come. `wanted` are the
    /// callers that are waiting; SVIDs that are signed on demand are due for them only.
    #[must_use]
    pub fn due(&self, now: UnixTime, wanted: &[SelectorSet]) -> Vec<Arc<AuthorizedEntry>> {
        let mut due: Vec<(UnixTime, &Arc<AuthorizedEntry>)> = self
            .entries
            .values()
            .filter_map(|entry| Some((self.due_at(entry, wanted)?, entry)))
            .filter(|(at, _)| *at <= now)
            .collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter()
            .map(|(_, entry)| Arc::clone(entry))
            .collect()
    }

    /// When the next SVID is due.
    #[must_use]
    pub fn next_due(&self, wanted: &[SelectorSet]) -> Option<UnixTime> {
        self.entries
            .values()
            .filter_map(|entry| self.due_at(entry, wanted))
            .min()
    }

    fn due_at(&self, entry: &AuthorizedEntry, wanted: &[SelectorSet]) -> Option<UnixTime> {
        let needed = match entry.delivery {
            Delivery::Stored => false,
            Delivery::Prefetched => true,
            Delivery::OnDemand => wanted
                .iter()
                .any(|caller| entry.selectors.is_subset_of(caller)),
        };
        let at = match self.held.get(&entry.id) {
            Some(held) if held.revision == entry.revision => held.renew_at,
            _ => UnixTime::default(),
        };
        needed.then_some(at)
    }

    /// Takes a newly signed SVID in, unless the entry has gone or means somebody else by now. Says whether it did.
    pub fn hold(
        &mut self,
        entry: &AuthorizedEntry,
        svid: X509Svid,
        jitter: f64,
        now: UnixTime,
    ) -> bool {
        let Some(current) = self.entries.get(&entry.id) else {
            return false;
        };
        if current.spiffe_id != *svid.id() {
            return false;
        }
        let soonest = rotation::earliest(svid.not_after(), now);
        let renew_at = rotation::renew_at(svid.not_before(), svid.not_after(), jitter).max(soonest);
        let held = Held {
            svid: Arc::new(ServedSvid::new(svid)),
            revision: entry.revision,
            renew_at,
        };
        self.held.insert(entry.id.clone(), held);
        true
    }

    /// Whether an SVID that is held has expired, so that it must not be served any longer.
    #[must_use]
    pub fn has_expired(&self, now: UnixTime) -> bool {
        self.held
            .values()
            .any(|held| held.svid.svid().not_after() < now)
    }

    /// Whether there are entries whose SVIDs are signed only when somebody asks.
    #[must_use]
    pub fn signs_on_demand(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.delivery == Delivery::OnDemand)
    }

    /// How many SVIDs are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
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
            Known::FromServer,
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
mod tests {
    use std::time::Duration;

    use countersign_identity::Selector;

    use super::super::entry::tests::entry;
    use super::super::snapshot::Answer;
    use super::*;
    use crate::test_ca::{TestCa, trust_domain};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const TTL: Duration = Duration::from_secs(3600);

    fn later(secs: u64) -> UnixTime {
        NOW.after(Duration::from_secs(secs))
    }

    fn entries(all: &[AuthorizedEntry]) -> Entries {
        all.iter()
            .map(|e| (e.id.clone(), Arc::new(e.clone())))
            .collect()
    }

    fn ids(due: &[Arc<AuthorizedEntry>]) -> Vec<&str> {
        due.iter().map(|e| e.id.as_str()).collect()
    }

    fn caller() -> SelectorSet {
        std::iter::once(Selector::parse("unix:uid:1").unwrap()).collect()
    }

    fn setup(all: &[AuthorizedEntry]) -> (TestCa, Cache) {
        let ca = TestCa::new(NOW);
        let mut cache = Cache::new(Arc::new(ca.bundle()));
        cache.replace_entries(entries(all));
        (ca, cache)
    }

    #[test]
    fn a_new_entry_is_due_at_once_and_then_at_half_life() {
        let a = entry("a", &["unix:uid:1"]);
        let (ca, mut cache) = setup(std::slice::from_ref(&a));
        assert_eq!(ids(&cache.due(NOW, &[])), ["a"]);
        assert!(cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW));
        assert!(cache.due(NOW, &[]).is_empty());
        // 3,610 s of life with the back-date; half of it is left 1,795 s from now.
        assert_eq!(cache.next_due(&[]), Some(later(1795)));
        assert!(cache.due(later(1794), &[]).is_empty());
        assert_eq!(ids(&cache.due(later(1795), &[])), ["a"]);
    }

    #[test]
    fn a_changed_revision_is_due_at_once_and_the_old_svid_is_served_meanwhile() {
        let a = entry("a", &["unix:uid:1"]);
        let (ca, mut cache) = setup(std::slice::from_ref(&a));
        cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        let updated = AuthorizedEntry {
            revision: 1,
            ..a.clone()
        };
        cache.replace_entries(entries(std::slice::from_ref(&updated)));
        assert_eq!(ids(&cache.due(NOW, &[])), ["a"]);
        assert!(matches!(
            cache.snapshot(NOW).answer(&caller()),
            Answer::Identities(_)
        ));

        // An answer to the request from before the update does not settle it.
        cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        assert_eq!(ids(&cache.due(NOW, &[])), ["a"]);
        cache.hold(&updated, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        assert!(cache.due(NOW, &[]).is_empty());
    }

    #[test]
    fn an_entry_that_means_somebody_else_now_does_not_keep_its_old_svid() {
        let a = entry("a", &["unix:uid:1"]);
        let (ca, mut cache) = setup(std::slice::from_ref(&a));
        cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        let other = AuthorizedEntry {
            spiffe_id: trust_domain().id_with_path("/b").unwrap(),
            revision: 1,
            ..a.clone()
        };
        cache.replace_entries(entries(&[other]));
        assert!(matches!(
            cache.snapshot(NOW).answer(&caller()),
            Answer::NotSigned
        ));
        assert!(
            !cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW),
            "signed for who it was"
        );
        cache.replace_entries(Entries::new());
        assert!(
            !cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW),
            "the entry is gone"
        );
    }

    #[test]
    fn an_expired_svid_is_not_served() {
        let a = entry("a", &["unix:uid:1"]);
        let (ca, mut cache) = setup(std::slice::from_ref(&a));
        cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        assert!(matches!(
            cache.snapshot(later(3600)).answer(&caller()),
            Answer::Identities(_)
        ));
        assert!(matches!(
            cache.snapshot(later(3601)).answer(&caller()),
            Answer::NotSigned
        ));
    }

    #[test]
    fn what_is_signed_on_demand_is_due_for_waiting_callers_only_and_what_is_stored_never() {
        let demand = AuthorizedEntry {
            delivery: Delivery::OnDemand,
            ..entry("d", &["unix:uid:1"])
        };
        let stored = AuthorizedEntry {
            delivery: Delivery::Stored,
            ..entry("s", &["unix:uid:1"])
        };
        let (_, cache) = setup(&[demand, stored]);
        assert!(cache.due(NOW, &[]).is_empty());
        assert_eq!(cache.next_due(&[]), None);
        assert_eq!(ids(&cache.due(NOW, &[caller()])), ["d"]);
    }

    #[test]
    fn what_chains_to_a_tainted_or_removed_authority_is_due_at_once() {
        let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
        let (old, mut cache) = setup(&[a.clone(), b.clone()]);
        let new = TestCa::new(NOW);
        cache.hold(&a, old.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        cache.hold(&b, new.issue(&b.spiffe_id, TTL, NOW), 0.0, NOW);

        let mut bundle = old.bundle();
        bundle.x509_authorities.push(new.authority().clone());
        assert!(cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), NOW));
        assert!(
            !cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), NOW),
            "the same again"
        );
        assert!(cache.due(NOW, &[]).is_empty());

        bundle.x509_authorities[0] = bundle.x509_authorities[0].with_tainted(true);
        cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), NOW);
        assert_eq!(ids(&cache.due(NOW, &[])), ["a"]);

        bundle.x509_authorities.pop();
        cache.replace_bundles(Arc::new(bundle), BTreeMap::new(), NOW);
        assert_eq!(ids(&cache.due(NOW, &[])), ["a", "b"]);
    }

    #[test]
    fn what_is_missing_comes_before_what_is_only_old() {
        let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
        let (ca, mut cache) = setup(&[a.clone(), b]);
        cache.hold(&a, ca.issue(&a.spiffe_id, TTL, NOW), 0.0, NOW);
        assert_eq!(ids(&cache.due(later(2000), &[])), ["b", "a"]);
    }
}
