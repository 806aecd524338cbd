//! Wakes the subscribers of a node when something changed for it.
//!
//! Each subscriber has a slot and a wake-up, not a queue: a slow one finds all that happened meanwhile merged into one
//! [`Changes`], and nothing can overflow. It is a hint to look again, never the change itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::SpiffeId;
use tokio::sync::Notify;

use super::invalidation::{Invalidated, NodeSet};

/// What may have changed for a node since its subscriber asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The entries that the node may have.
    pub(crate) entries: bool,
    /// A bundle that it needs.
    pub(crate) bundles: bool,
    /// The largest number of subscribers that were woken together: they will all ask at once.
    pub(crate) subscribers: usize,
}

/// A subscription to the changes of one node. It ends when it is dropped.
pub(crate) struct Subscription {
    subscribers: Subscribers,
    node: SpiffeId,
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    changes: Mutex<Changes>,
    wake: Notify,
}

/// All subscribers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscribers(Arc<Mutex<HashMap<SpiffeId, Vec<Arc<Slot>>>>>);

impl Subscribers {
    pub(super) fn subscribe(&self, node: &SpiffeId) -> Subscription {
        let slot = Arc::new(Slot::default());
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .entry(node.clone())
            .or_default()
            .push(Arc::clone(&slot));
        drop(slots);
        Subscription {
            subscribers: self.clone(),
            node: node.clone(),
            slot,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.is_empty()
    }

    /// Wakes the subscribers of the invalidated nodes.
    pub(super) fn wake(&self, invalidated: &Invalidated) {
        if invalidated.is_empty() {
            return;
        }
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let woken: Vec<(&Arc<Slot>, Changes)> = match (&invalidated.entries, &invalidated.bundles) {
            // A few among many: look those up.
            (NodeSet::These(entries), NodeSet::These(bundles))
                if entries.len() + bundles.len() < slots.len() =>
            {
                let fresh = bundles.iter().filter(|node| !entries.contains(*node));
                let nodes = entries.iter().chain(fresh);
                nodes
                    .filter_map(|node| slots.get_key_value(node))
                    .flat_map(|(node, slots)| slots.iter().map(|slot| (slot, invalidated.of(node))))
                    .collect()
            }
            _ => slots
                .iter()
                .flat_map(|(node, slots)| slots.iter().map(|slot| (slot, invalidated.of(node))))
                .filter(|(_, changes)| changes.entries || changes.bundles)
                .collect(),
        };
        let subscribers = woken.len();
        for (slot, changes) in woken {
            slot.merge(Changes {
                subscribers,
                ..changes
            });
        }
    }
}

impl Invalidated {
    fn of(&self, node: &SpiffeId) -> Changes {
        Changes {
            entries: self.entries.contains(node),
            bundles: self.bundles.contains(node),
            subscribers: 0,
        }
    }
}

impl Slot {
    fn merge(&self, new: Changes) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        *changes = Changes {
            entries: changes.entries || new.entries,
            bundles: changes.bundles || new.bundles,
            subscribers: changes.subscribers.max(new.subscribers),
        };
        drop(changes);
        self.wake.notify_one();
    }

    fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscription {
    /// Waits until something changed since this was called last, or since the subscription began. Cancel-safe: a change is
    /// taken out of the slot only when it is returned.
    #[cfg_attr(not(test), expect(dead_code, reason = "see `Index::subscribe`"))]
    pub(crate) async fn changed(&mut self) -> Changes {
        loop {
            let changes = self.slot.take();
            if changes != Changes::default() {
                return changes;
            }
            self.slot.wake.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut slots = self
            .subscribers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_node) = slots.get_mut(&self.node) {
            of_node.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if of_node.is_empty() {
                slots.remove(&self.node);
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td{path}")).unwrap()
    }

    fn entries_of(nodes: &[&str]) -> Invalidated {
        Invalidated {
            entries: NodeSet::These(nodes.iter().map(|path| id(path)).collect()),
            bundles: NodeSet::default(),
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_finds_all_changes_merged() {
        let subscribers = Subscribers::default();
        let mut a = subscribers.subscribe(&id("/a"));
        let mut a_again = subscribers.subscribe(&id("/a"));
        let mut b = subscribers.subscribe(&id("/b"));
        subscribers.wake(&entries_of(&["/a", "/unknown"]));
        subscribers.wake(&Invalidated {
            bundles: NodeSet::These([id("/a")].into()),
            ..Invalidated::default()
        });
        let all = Changes {
            entries: true,
            bundles: true,
            subscribers: 2,
        };
        assert_eq!(a.changed().await, all);
        assert_eq!(a_again.changed().await, all);
        assert!(a.changed().now_or_never().is_none());
        assert!(b.changed().now_or_never().is_none());
        subscribers.wake(&Invalidated::everything());
        assert_eq!(b.changed().await.subscribers, 3);
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_no_change() {
        let subscribers = Subscribers::default();
        let mut a = subscribers.subscribe(&id("/a"));
        assert!(a.changed().now_or_never().is_none());
        subscribers.wake(&entries_of(&["/a"]));
        drop(a.changed());
        assert!(a.changed().await.entries);
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let subscribers = Subscribers::default();
        let (a, b) = (
            subscribers.subscribe(&id("/a")),
            subscribers.subscribe(&id("/a")),
        );
        drop(a);
        assert!(!subscribers.is_empty());
        drop(b);
        assert!(subscribers.is_empty());
    }
}
