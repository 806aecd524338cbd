//! Posting lists: for an ID, a parent or a selector, the objects that have it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound;

use countersign_store::backend::Seq;

/// For each key the objects that have it, in the order in which they were created.
#[derive(Debug)]
pub(super) struct Postings<K>(HashMap<K, List>);

/// Most keys have one object, which needs no allocation of its own; some have all, where inserting must stay fast.
#[derive(Debug)]
pub(super) enum List {
    One(Seq),
    Many(BTreeSet<Seq>),
}

impl List {
    /// The objects that were created after this, in order.
    pub(super) fn after(&self, after: Seq) -> impl Iterator<Item = Seq> {
        let (one, many) = match self {
            Self::One(seq) => (Some(*seq).filter(|seq| *seq > after), None),
            Self::Many(seqs) => {
                let next = seqs.range((Bound::Excluded(after), Bound::Unbounded));
                (None, Some(next.copied()))
            }
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<K> Default for Postings<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Postings<K> {
    /// How many objects have it.
    pub(super) fn count(&self, key: &K) -> usize {
        match self.0.get(key) {
            None => 0,
            Some(List::One(_)) => 1,
            Some(List::Many(seqs)) => seqs.len(),
        }
    }

    /// The objects that have it, in order.
    pub(super) fn of(&self, key: &K) -> impl Iterator<Item = Seq> {
        self.list(key)
            .into_iter()
            .flat_map(|list| list.after(Seq::ZERO))
    }

    /// The objects that have it.
    pub(super) fn list(&self, key: &K) -> Option<&List> {
        self.0.get(key)
    }

    /// The equal key that is stored here, so that its text can be shared.
    pub(super) fn shared(&self, key: &K) -> Option<&K> {
        self.0.get_key_value(key).map(|(kept, _)| kept)
    }

    pub(super) fn add(&mut self, key: &K, seq: Seq) {
        match self.0.get_mut(key) {
            None => {
                self.0.insert(key.clone(), List::One(seq));
            }
            Some(List::Many(seqs)) => {
                seqs.insert(seq);
            }
            Some(list) => {
                if let List::One(other) = *list
                    && other != seq
                {
                    *list = List::Many(BTreeSet::from([other, seq]));
                }
            }
        }
    }

    /// Whether it was there.
    pub(super) fn take(&mut self, key: &K, seq: Seq) -> bool {
        let (taken, empty) = match self.0.get_mut(key) {
            None => (false, false),
            Some(List::One(one)) => (*one == seq, *one == seq),
            Some(List::Many(seqs)) => (seqs.remove(&seq), seqs.is_empty()),
        };
        if empty {
            self.0.remove(key);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(postings: &Postings<&str>, after: u64) -> Vec<u64> {
        let list = postings.list(&"k").into_iter();
        list.flat_map(|list| list.after(Seq::new(after)))
            .map(Seq::get)
            .collect()
    }

    #[test]
    fn a_key_has_none_one_or_many_objects() {
        let mut postings = Postings::default();
        assert_eq!((postings.count(&"k"), listed(&postings, 0)), (0, vec![]));
        for seq in [5, 5, 3, 9] {
            postings.add(&"k", Seq::new(seq));
        }
        assert_eq!(listed(&postings, 0), [3, 5, 9]);
        assert_eq!(listed(&postings, 3), [5, 9]);
        assert!(!postings.take(&"k", Seq::new(4)));
        for seq in [3, 9, 5] {
            assert!(postings.take(&"k", Seq::new(seq)));
        }
        assert!(!postings.take(&"k", Seq::new(5)));
        postings.add(&"k", Seq::new(7));
        assert_eq!(
            (listed(&postings, 6), listed(&postings, 7)),
            (vec![7], vec![])
        );
        assert!(!postings.take(&"k", Seq::new(8)));
        assert_eq!(postings.count(&"k"), 1);
        assert!(postings.take(&"k", Seq::new(7)));
        assert!(postings.shared(&"k").is_none());
    }
}
