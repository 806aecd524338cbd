//! What must change so that the server has the entries of the file.

use std::collections::{HashMap, HashSet};

use countersign_proto::spire::api::types;

use super::likeness::Likeness;
use super::read::Wanted;
use crate::error::{Conflict, Conflicts};
use crate::flag::id_text;

/// Which entries of the server matter for a file; a server may have many others.
pub(super) struct Relevant {
    ids: HashSet<String>,
    alike: HashSet<Likeness>,
    prefix: Option<String>,
}

impl Relevant {
    pub(super) fn of(wanted: &Wanted) -> Self {
        let entries = &wanted.entries;
        Self {
            ids: entries.iter().map(|e| e.id.clone()).collect(),
            alike: entries.iter().map(Likeness::of).collect(),
            prefix: wanted.set.as_deref().map(prefix),
        }
    }

    pub(super) fn is(&self, entry: &types::Entry) -> bool {
        self.ids.contains(&entry.id)
            || self
                .prefix
                .as_ref()
                .is_some_and(|prefix| entry.id.starts_with(prefix))
            || self.alike.contains(&Likeness::of(entry))
    }
}

/// With what the IDs of a set's entries begin. The name itself has no dot, so that no set is within another.
fn prefix(set: &str) -> String {
    format!("{set}.")
}

/// An entry that is there and says something else.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) old: types::Entry,
    pub(super) new: types::Entry,
}

/// What must change.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The file's set.
    pub(super) set: Option<String>,
    pub(super) create: Vec<types::Entry>,
    pub(super) update: Vec<Update>,
    /// Entries of the set that the file does not have; deleted only with `-prune`.
    pub(super) surplus: Vec<types::Entry>,
    /// How many are as they should be.
    pub(super) unchanged: usize,
}

impl Plan {
    /// # Errors
    /// Entries of the file that can't be made, each with the reason.
    pub(super) fn new(wanted: Wanted, present: Vec<types::Entry>) -> Result<Self, Conflicts> {
        let Wanted { set, entries } = wanted;
        let mut plan = Self::default();
        let mut conflicts = Vec::new();
        let mut present = Present::new(present);
        for entry in entries {
            let asked = !entry.id.is_empty();
            let entry = with_id(entry, set.as_deref());
            match present.take(&entry, asked) {
                Found::None => plan.create.push(entry),
                Found::One(old) => plan.compare(*old, entry),
                Found::Other(present) => conflicts.push(Conflict {
                    spiffe_id: id_text(entry.spiffe_id.as_ref()),
                    id: entry.id,
                    present,
                }),
            }
        }
        if !conflicts.is_empty() {
            return Err(Conflicts(conflicts));
        }
        if let Some(set) = &set {
            plan.surplus = present.left_in(&prefix(set));
        }
        plan.set = set;
        Ok(plan)
    }

    /// How many changes it makes.
    pub(super) fn changes(&self, prune: bool) -> usize {
        let surplus = if prune { self.surplus.len() } else { 0 };
        self.create.len() + self.update.len() + surplus
    }

    fn compare(&mut self, old: types::Entry, new: types::Entry) {
        let old = normal(old);
        let new = types::Entry {
            id: old.id.clone(),
            revision_number: old.revision_number,
            created_at: old.created_at,
            ..new
        };
        if old == new {
            self.unchanged += 1;
        } else {
            self.update.push(Update { old, new });
        }
    }
}

/// The entry with its own ID, or that of the set; if there is no set the server chooses one.
fn with_id(entry: types::Entry, set: Option<&str>) -> types::Entry {
    match set {
        Some(set) if entry.id.is_empty() => types::Entry {
            id: Likeness::of(&entry).id_in(set),
            ..entry
        },
        _ => entry,
    }
}

/// Sorts lists whose order means nothing and leaves out attributes of which none is set, as reading a file does.
fn normal(mut entry: types::Entry) -> types::Entry {
    entry
        .selectors
        .sort_unstable_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    entry.federates_with.sort_unstable();
    let nothing = types::entry::AdditionalAttributes::default();
    entry.additional_attributes = entry.additional_attributes.filter(|a| *a != nothing);
    entry
}

/// The server's entries, each taken once.
struct Present {
    by_id: HashMap<String, types::Entry>,
    alike: HashMap<Likeness, Vec<String>>,
}

enum Found {
    None,
    One(Box<types::Entry>),
    /// The server has it with this ID, and the file gives another.
    Other(String),
}

impl Present {
    fn new(entries: Vec<types::Entry>) -> Self {
        let mut alike: HashMap<Likeness, Vec<String>> = HashMap::new();
        for entry in &entries {
            let ids = alike.entry(Likeness::of(entry)).or_default();
            ids.push(entry.id.clone());
        }
        let by_id = entries.into_iter().map(|e| (e.id.clone(), e)).collect();
        Self { by_id, alike }
    }

    /// The entry that an entry of the file stands for: the one with its ID if the file gives one, else one that is alike,
    /// else the one that an earlier run made for it.
    fn take(&mut self, entry: &types::Entry, asked: bool) -> Found {
        let alike = self.alike.get(&Likeness::of(entry));
        let alike = alike.and_then(|ids| ids.iter().find(|id| self.by_id.contains_key(*id)));
        let alike = alike.cloned();
        let id = match alike {
            Some(alike) if !asked => alike,
            Some(alike) if !self.by_id.contains_key(&entry.id) => return Found::Other(alike),
            _ => entry.id.clone(),
        };
        match self.by_id.remove(&id) {
            Some(entry) => Found::One(Box::new(entry)),
            None => Found::None,
        }
    }

    /// The entries of a set that no entry of the file stands for.
    fn left_in(self, prefix: &str) -> Vec<types::Entry> {
        let mut left: Vec<_> = self
            .by_id
            .into_values()
            .filter(|entry| entry.id.starts_with(prefix))
            .collect();
        left.sort_by(|a, b| a.id.cmp(&b.id));
        left
    }
}
