//! Tells whoever waits for a node that something changed for it.
//!
//! Each watch has marks and a wake-up, not a queue: whoever is slow finds the marks of all that happened meanwhile, and
//! nothing can overflow. A mark is a hint to look again, never the change itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::SpiffeId;
use tokio::sync::Notify;

use super::affected::{Affected, Nodes};

/// What may be another since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dirty {
    /// The entries that the node may have.
    pub entries: bool,
    /// A bundle that it needs.
    pub bundles: bool,
    /// How many watches were told the same at once, at most: they will all come and ask.
    pub herd: usize,
}

/// A watch on what concerns one node. It ends when it is dropped.
pub struct Watch {
    watches: Watches,
    node: SpiffeId,
    mark: Arc<Mark>,
}

#[derive(Debug, Default)]
struct Mark {
    dirty: Mutex<Dirty>,
    wake: Notify,
}

/// All watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watches(Arc<Mutex<HashMap<SpiffeId, Vec<Arc<Mark>>>>>);

impl Watches {
    pub(super) fn open(&self, node: &SpiffeId) -> Watch {
        let mark = Arc::new(Mark::default());
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks
            .entry(node.clone())
            .or_default()
            .push(Arc::clone(&mark));
        drop(marks);
        Watch {
            watches: self.clone(),
            node: node.clone(),
            mark,
        }
    }

    /// Marks and wakes the watches that a change concerns.
    pub(super) fn tell(&self, affected: &Affected) {
        if affected.is_none() {
            return;
        }
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told: Vec<(&Arc<Mark>, Dirty)> = match (&affected.entries, &affected.bundles) {
            // A few among many: look those up.
            (Nodes::These(entries), Nodes::These(bundles))
                if entries.len() + bundles.len() < marks.len() =>
            {
                let fresh = bundles.iter().filter(|node| !entries.contains(*node));
                let nodes = entries.iter().chain(fresh);
                nodes
                    .filter_map(|node| marks.get_key_value(node))
                    .flat_map(|(node, marks)| marks.iter().map(|mark| (mark, affected.of(node))))
                    .collect()
            }
            _ => marks
                .iter()
                .flat_map(|(node, marks)| marks.iter().map(|mark| (mark, affected.of(node))))
                .filter(|(_, dirty)| dirty.entries || dirty.bundles)
                .collect(),
        };
        let herd = told.len();
        for (mark, dirty) in told {
            mark.add(Dirty { herd, ..dirty });
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.is_empty()
    }
}

impl Affected {
    fn of(&self, node: &SpiffeId) -> Dirty {
        Dirty {
            entries: self.entries.contains(node),
            bundles: self.bundles.contains(node),
            herd: 0,
        }
    }
}

impl Mark {
    fn add(&self, new: Dirty) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        *dirty = Dirty {
            entries: dirty.entries || new.entries,
            bundles: dirty.bundles || new.bundles,
            herd: dirty.herd.max(new.herd),
        };
        drop(dirty);
        self.wake.notify_one();
    }

    fn take(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watch {
    /// Waits until something changed since this was asked last, or since the watch was opened. May be dropped and asked
    /// again: no mark is lost.
    pub async fn changed(&mut self) -> Dirty {
        loop {
            let dirty = self.mark.take();
            if dirty != Dirty::default() {
                return dirty;
            }
            self.mark.wake.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut marks = self
            .watches
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_node) = marks.get_mut(&self.node) {
            of_node.retain(|mark| !Arc::ptr_eq(mark, &self.mark));
            if of_node.is_empty() {
                marks.remove(&self.node);
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
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

    fn entries_of(nodes: &[&str]) -> Affected {
        Affected {
            entries: Nodes::These(nodes.iter().map(|path| id(path)).collect()),
            bundles: Nodes::default(),
        }
    }

    #[tokio::test]
    async fn who_is_slow_finds_one_mark_for_all_that_happened() {
        let watches = Watches::default();
        let mut a = watches.open(&id("/a"));
        let mut a_again = watches.open(&id("/a"));
        let mut b = watches.open(&id("/b"));
        watches.tell(&entries_of(&["/a", "/unknown"]));
        watches.tell(&Affected {
            bundles: Nodes::These([id("/a")].into()),
            ..Affected::default()
        });
        let all = Dirty {
            entries: true,
            bundles: true,
            herd: 2,
        };
        assert_eq!(a.changed().await, all);
        assert_eq!(a_again.changed().await, all);
        assert!(a.changed().now_or_never().is_none());
        assert!(b.changed().now_or_never().is_none());
        watches.tell(&Affected::all());
        assert_eq!(b.changed().await.herd, 3);
    }

    #[tokio::test]
    async fn a_mark_outlives_a_wait_that_was_given_up() {
        let watches = Watches::default();
        let mut a = watches.open(&id("/a"));
        assert!(a.changed().now_or_never().is_none());
        watches.tell(&entries_of(&["/a"]));
        drop(a.changed());
        assert!(a.changed().await.entries);
    }

    #[test]
    fn a_watch_that_ended_is_forgotten() {
        let watches = Watches::default();
        let (a, b) = (watches.open(&id("/a")), watches.open(&id("/a")));
        drop(a);
        assert!(!watches.is_empty());
        drop(b);
        assert!(watches.is_empty());
    }
}
