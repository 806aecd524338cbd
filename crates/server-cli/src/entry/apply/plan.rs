//! What must change so that the server has what the file says.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest;
use countersign_proto::spire::api::types;

use super::read::Wanted;
use crate::flag::id_text;

/// What makes entries alike: SPIFFE ID, parent and the set of selectors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    spiffe_id: String,
    parent_id: String,
    selectors: Vec<(String, String)>,
}

impl Likeness {
    pub(super) fn of(entry: &types::Entry) -> Self {
        let pair = |s: &types::Selector| (s.r#type.clone(), s.value.clone());
        let mut selectors: Vec<_> = entry.selectors.iter().map(pair).collect();
        selectors.sort_unstable();
        Self {
            spiffe_id: id_text(entry.spiffe_id.as_ref()),
            parent_id: id_text(entry.parent_id.as_ref()),
            selectors,
        }
    }

    /// The ID of an entry that is made for a set: the same each time, so that a second run finds what the first made.
    fn id_in(&self, set: &str) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut part = |text: &str| {
            hash.update(&text.len().to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(&self.spiffe_id);
        part(&self.parent_id);
        for (kind, value) in &self.selectors {
            part(kind);
            part(value);
        }
        let hash = hash.finish();
        let hex = hash.as_ref().iter().take(16);
        hex.fold(format!("{set}."), |text, byte| format!("{text}{byte:02x}"))
    }
}

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
    /// Entries of the set that the file does not have; deleted only if that was asked for.
    pub(super) surplus: Vec<types::Entry>,
    /// How many are as they should be.
    pub(super) unchanged: usize,
}

impl Plan {
    /// # Errors
    /// Entries of the file that can't be made, each with the reason.
    pub(super) fn new(wanted: Wanted, present: Vec<types::Entry>) -> Result<Self, String> {
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
                Found::Other(id) => conflicts.push(format!(
                    "{} (ID {}): the server has an entry with the same SPIFFE ID, parent and selectors, with the ID {id}: \
                     name that one, or delete it",
                    id_text(entry.spiffe_id.as_ref()),
                    entry.id
                )),
            }
        }
        if !conflicts.is_empty() {
            return Err(format!("nothing was changed:\n{}", conflicts.join("\n")));
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

/// Lists without order in order, and attributes that say nothing left out, as files are read too.
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
    /// Another one is in the way.
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

    /// The entry that an entry of the file means: the one with its ID if the file gives one, else one that is alike, else
    /// the one that an earlier run made for it.
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

    /// What nothing in the file means.
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
