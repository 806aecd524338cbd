//! Publishes snapshots, and wakes the subscribers that a change concerns.
//!
//! Readers never wait: the current snapshot is behind one atomic pointer. A subscriber has no queue; woken, it takes the
//! newest snapshot, so a slow reader misses intermediate ones and costs nothing.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use countersign_identity::{SelectorSet, UnixTime};
use tokio::sync::Notify;

use super::cache::Subscribed;
use super::snapshot::{Snapshot, WorkloadAnswer};

/// The one place where snapshots go from their owner to their readers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Feed(Arc<FeedState>);

#[derive(Debug, Default)]
struct FeedState {
    current: ArcSwapOption<Snapshot>,
    /// When the last sync was, in Unix seconds.
    synced_at: AtomicU64,
    subscribers: Mutex<Subscribers>,
    /// Wakes the syncer at a new subscriber whose SVIDs are signed on demand.
    unsigned: Notify,
}

#[derive(Debug, Default)]
struct Subscribers {
    next: u64,
    all: HashMap<u64, (Arc<SelectorSet>, Arc<Notify>)>,
}

impl Feed {
    /// The newest snapshot; `None` before the first sync.
    #[must_use]
    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        self.0.current.load_full()
    }

    /// When entries and bundles were last known to be those of the server; the epoch if never.
    #[must_use]
    pub(crate) fn synced_at(&self) -> UnixTime {
        UnixTime::from_secs(self.0.synced_at.load(Ordering::Relaxed))
    }

    /// Notes a successful sync.
    pub(crate) fn synced(&self, at: UnixTime) {
        self.0.synced_at.store(at.as_secs(), Ordering::Relaxed);
    }

    /// Publishes a snapshot and wakes the subscribers that it concerns. One caller at a time. Whether anything changed.
    pub fn publish(&self, snapshot: Snapshot) -> bool {
        let snapshot = Arc::new(snapshot);
        let earlier = self.0.current.swap(Some(Arc::clone(&snapshot)));
        let changes = earlier.map(|earlier| (snapshot.changes_since(&earlier), earlier));
        if changes
            .as_ref()
            .is_some_and(|(changes, _)| changes.is_empty())
        {
            return false;
        }
        for (selectors, notify) in self.lock().all.values() {
            if changes.as_ref().is_none_or(|(changes, before)| {
                selectors.is_empty() || changes.concern(selectors, before, &snapshot)
            }) {
                notify.notify_one();
            }
        }
        true
    }

    /// Asks to be woken by changes that concern a caller with these selectors, or by all changes if there are none.
    /// Changes since before this call count.
    #[must_use]
    pub(crate) fn subscribe(&self, selectors: SelectorSet) -> Subscription {
        let (selectors, notify) = (Arc::new(selectors), Arc::new(Notify::new()));
        let mut subscribers = self.lock();
        let number = subscribers.next;
        subscribers.next = number.wrapping_add(1);
        subscribers
            .all
            .insert(number, (Arc::clone(&selectors), Arc::clone(&notify)));
        drop(subscribers);
        if self.current().is_some_and(|snapshot| {
            matches!(snapshot.answer(&selectors), WorkloadAnswer::NotSigned)
        }) {
            self.0.unsigned.notify_one();
        }
        Subscription {
            feed: self.clone(),
            number,
            selectors,
            notify,
        }
    }

    /// The entries for which there are subscribers.
    #[must_use]
    pub(crate) fn subscribed(&self) -> Subscribed {
        let Some(snapshot) = self.current() else {
            return Subscribed::new();
        };
        // Looked up without the lock, and once for subscribers with the same selectors, which are many.
        let selectors: HashSet<Arc<SelectorSet>> = self
            .lock()
            .all
            .values()
            .map(|(selectors, _)| Arc::clone(selectors))
            .collect();
        selectors
            .iter()
            .flat_map(|selectors| snapshot.matching(selectors))
            .map(|served| served.entry.id.clone())
            .collect()
    }

    /// Waits for a new subscriber whose SVIDs are not signed yet.
    pub(crate) async fn unsigned_subscriber(&self) {
        self.0.unsigned.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Subscribers> {
        self.0
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscriber, until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    feed: Feed,
    number: u64,
    selectors: Arc<SelectorSet>,
    notify: Arc<Notify>,
}

impl Subscription {
    /// The subscriber's selectors.
    #[must_use]
    pub(crate) fn selectors(&self) -> &SelectorSet {
        &self.selectors
    }

    /// Waits for a change that concerns this reader; several since the last call count as one.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use countersign_identity::{Bundle, EntryId, Selector};
    use futures::FutureExt as _;

    use super::super::snapshot::{EntrySource, ServedEntry};
    use super::*;
    use crate::entry::tests::entry;
    use crate::test_ca::trust_domain;

    fn snapshot(entries: &[(&str, &str)]) -> Snapshot {
        let entries = entries.iter().map(|(id, selector)| ServedEntry {
            entry: Arc::new(entry(id, &[selector])),
            svid: None,
        });
        let bundle = Arc::new(Bundle::empty(trust_domain()));
        Snapshot::new(bundle, entries, BTreeMap::new(), EntrySource::Server)
    }

    fn caller(text: &str) -> SelectorSet {
        std::iter::once(Selector::parse(text).unwrap()).collect()
    }

    #[test]
    fn only_those_concerned_are_woken_and_many_changes_are_one() {
        let feed = Feed::default();
        assert!(feed.current().is_none());
        let (one, two) = (
            feed.subscribe(caller("unix:uid:1")),
            feed.subscribe(caller("unix:uid:2")),
        );
        feed.publish(snapshot(&[]));
        assert!(
            one.changed().now_or_never().is_some() && two.changed().now_or_never().is_some(),
            "the first picture"
        );

        feed.publish(snapshot(&[("a", "unix:uid:1")]));
        feed.publish(snapshot(&[("a", "unix:uid:1"), ("b", "unix:uid:1")]));
        assert!(two.changed().now_or_never().is_none());
        assert!(one.changed().now_or_never().is_some());
        assert_eq!(
            feed.current().unwrap().matching(one.selectors()).len(),
            2,
            "the newest picture"
        );
        assert!(
            one.changed().now_or_never().is_none(),
            "both changes counted once"
        );

        feed.publish(snapshot(&[("a", "unix:uid:1"), ("b", "unix:uid:1")]));
        assert!(one.changed().now_or_never().is_none(), "nothing changed");
    }

    #[test]
    fn an_unsigned_subscriber_wakes_the_syncer() {
        let feed = Feed::default();
        feed.publish(snapshot(&[("a", "unix:uid:1")]));
        let _other = feed.subscribe(caller("unix:uid:2"));
        assert!(feed.unsigned_subscriber().now_or_never().is_none());
        let _one = feed.subscribe(caller("unix:uid:1"));
        assert!(feed.unsigned_subscriber().now_or_never().is_some());
    }

    #[test]
    fn a_subscription_ends_with_its_reader() {
        let feed = Feed::default();
        feed.publish(snapshot(&[("a", "unix:uid:1"), ("b", "unix:uid:2")]));
        let one = feed.subscribe(caller("unix:uid:1"));
        assert_eq!(feed.subscribed(), [EntryId::new("a").unwrap()].into());
        drop(one);
        assert!(feed.subscribed().is_empty() && feed.lock().all.is_empty());
    }
}
