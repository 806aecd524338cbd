//! Registration entries. None is created that is similar to another: same SPIFFE ID, same parent, same selectors.

use std::collections::HashMap;

use aws_lc_rs::digest;
use countersign_identity::{Entry, EntryId, TrustDomain};
use countersign_proto::store::v1;
use futures::FutureExt as _;
use prost::Message as _;

use crate::backend::{Commit, Conflict, Expect, Key, Row, Seq, Table};
use crate::bundle::bundle_key;
use crate::record::Stored as _;
use crate::txn::{Outcome, Results, Round};
use crate::{Pending, Record, Store, StoreError, damaged};

/// Why an entry was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryExists {
    /// This one has the same SPIFFE ID, parent and selectors.
    #[error("similar entry already exists")]
    Similar(Box<Record<Entry>>),
    /// The ID is another entry's.
    #[error("an entry with this ID already exists")]
    Id,
    /// It federates with a trust domain that has no bundle here.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    BundleMissing(TrustDomain),
    /// Other writers changed the same rows again and again.
    #[error("the same entries were changed by others again and again; try again")]
    Busy,
}

/// There is no entry with this ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such entry")]
pub struct EntryMissing;

/// Why an entry was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError<E> {
    /// There is no entry with this ID.
    #[error("no such entry")]
    Missing,
    /// It would federate with a trust domain that has no bundle here.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    BundleMissing(TrustDomain),
    /// The change was refused.
    #[error("{0}")]
    Refused(E),
    /// Other writers changed the same rows again and again.
    #[error("the entry was changed by others again and again; try again")]
    Busy,
}

impl Store {
    /// Creates entries; one result for each, in order. The entries come with their IDs.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_create(
        &self,
        entries: &[Entry],
    ) -> Result<Pending<Vec<Result<Record<Entry>, EntryExists>>>, StoreError> {
        let mut results = Results::new(entries.len(), || EntryExists::Busy);
        let items = entries.iter().enumerate().collect();
        self.retry_each(items, &mut results, |items| {
            self.create_round(items).boxed()
        })
        .await?;
        Ok(results.into_pending())
    }

    /// Changes entries; one result for each, in order. `change` gets the number of the item and the current entry, and
    /// may be called again after a conflict. The store sets ID, creation time and revision.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_update<E: Send>(
        &self,
        ids: &[EntryId],
        change: impl Fn(usize, &Entry) -> Result<Entry, E> + Send + Sync,
    ) -> Result<Pending<Vec<Result<Record<Entry>, UpdateError<E>>>>, StoreError> {
        let change = &change;
        let mut results = Results::new(ids.len(), || UpdateError::Busy);
        for wave in waves(ids) {
            self.retry_each(wave, &mut results, |items| {
                self.update_round(items, change).boxed()
            })
            .await?;
        }
        Ok(results.into_pending())
    }

    /// Removes entries; one result for each, in order.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_delete(
        &self,
        ids: &[EntryId],
    ) -> Result<Pending<Vec<Result<(), EntryMissing>>>, StoreError> {
        self.entries_delete_if(ids, |_| true).await
    }

    /// Removes the entries for which `doomed` is still true within the transaction; the others count as missing.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_delete_if(
        &self,
        ids: &[EntryId],
        doomed: impl Fn(&Entry) -> bool + Send + Sync,
    ) -> Result<Pending<Vec<Result<(), EntryMissing>>>, StoreError> {
        let doomed = &doomed;
        let mut results = Results::new(ids.len(), || EntryMissing);
        let items = ids.iter().enumerate().collect();
        let left = self.retry_each(items, &mut results, |items| {
            self.delete_round(items, doomed).boxed()
        });
        if left.await?.is_empty() {
            Ok(results.into_pending())
        } else {
            Err(StoreError::Busy {
                doing: "delete entries",
            })
        }
    }

    async fn create_round<'a>(
        &self,
        items: Vec<(usize, &'a Entry)>,
    ) -> Result<Round<&'a Entry, Record<Entry>, EntryExists>, StoreError> {
        let commits = items.iter().map(|(_, entry)| creation(entry)).collect();
        let committed = self.commit_all(commits).await?;
        let mut round = Round::with_capacity(items.len());
        for ((i, entry), result) in items.into_iter().zip(committed) {
            let outcome = match result {
                Ok(seq) => {
                    let value = entry.clone();
                    Outcome::Done(
                        Record {
                            value,
                            created: seq,
                        },
                        seq,
                    )
                }
                Err(Conflict { key }) => match self.explain(entry, &key).await? {
                    Some(exists) => Outcome::Failed(exists),
                    None => Outcome::Again(entry),
                },
            };
            round.push((i, outcome));
        }
        Ok(round)
    }

    async fn update_round<'a, E>(
        &self,
        items: Vec<(usize, &'a EntryId)>,
        change: &(impl Fn(usize, &Entry) -> Result<Entry, E> + Sync),
    ) -> Result<Round<&'a EntryId, Record<Entry>, UpdateError<E>>, StoreError> {
        let found = self.entries_found(items.iter().map(|(_, id)| *id)).await?;
        let mut round = Round::with_capacity(items.len());
        let mut plans = Vec::new();
        for ((i, id), found) in items.into_iter().zip(found) {
            let Some(old) = found else {
                round.push((i, Outcome::Failed(UpdateError::Missing)));
                continue;
            };
            match change(i, &old.record.value) {
                Err(refusal) => round.push((i, Outcome::Failed(UpdateError::Refused(refusal)))),
                Ok(new) => {
                    let new = successor(&old.record.value, new);
                    plans.push((i, id, Plan { new, old }));
                }
            }
        }
        let touched = plans
            .iter()
            .flat_map(|(_, _, plan)| [&plan.new, &plan.old.record.value]);
        let similar = self.similar_found(touched).await?;
        let commits = plans
            .iter()
            .map(|(_, _, plan)| replacement(plan, &similar))
            .collect();
        let committed = self.commit_all(commits).await?;
        for ((i, id, Plan { new, old }), result) in plans.into_iter().zip(committed) {
            let outcome = match result {
                Ok(seq) => {
                    let created = old.record.created;
                    Outcome::Done(
                        Record {
                            value: new,
                            created,
                        },
                        seq,
                    )
                }
                Err(Conflict { key }) => match missing_bundle(&new, &key) {
                    Some(td) => Outcome::Failed(UpdateError::BundleMissing(td)),
                    None => Outcome::Again(id),
                },
            };
            round.push((i, outcome));
        }
        Ok(round)
    }

    async fn delete_round<'a>(
        &self,
        items: Vec<(usize, &'a EntryId)>,
        doomed: &(impl Fn(&Entry) -> bool + Sync),
    ) -> Result<Round<&'a EntryId, (), EntryMissing>, StoreError> {
        let found = self.entries_found(items.iter().map(|(_, id)| *id)).await?;
        let mut round = Round::with_capacity(items.len());
        let mut plans = Vec::new();
        for ((i, id), found) in items.into_iter().zip(found) {
            match found.filter(|entry| doomed(&entry.record.value)) {
                Some(entry) => plans.push((i, id, entry)),
                None => round.push((i, Outcome::Failed(EntryMissing))),
            }
        }
        if plans.is_empty() {
            return Ok(round);
        }
        let touched = plans.iter().map(|(_, _, entry)| &entry.record.value);
        let similar = self.similar_found(touched).await?;
        let commits = plans
            .iter()
            .map(|(_, _, entry)| deletion(entry, &similar))
            .collect();
        let committed = self.commit_all(commits).await?;
        for ((i, id, _), result) in plans.into_iter().zip(committed) {
            let outcome = match result {
                Ok(seq) => Outcome::Done((), seq),
                Err(_) => Outcome::Again(id),
            };
            round.push((i, outcome));
        }
        Ok(round)
    }

    /// Why an entry could not be created, given the conflicting row; `None` if that row has changed meanwhile.
    async fn explain(&self, entry: &Entry, key: &Key) -> Result<Option<EntryExists>, StoreError> {
        match key.table() {
            Table::Similar => {
                let Some(row) = self.row(key).await? else {
                    return Ok(None);
                };
                let Some(id) = entry_ids(&row)?.into_iter().next() else {
                    return Ok(None);
                };
                let found = self.read::<Entry>(&Key::new(Table::Entry, &id)).await?;
                Ok(found.map(|record| EntryExists::Similar(Box::new(record))))
            }
            Table::Bundle => Ok(missing_bundle(entry, key).map(EntryExists::BundleMissing)),
            _ => Ok(Some(EntryExists::Id)),
        }
    }

    pub(crate) async fn entries_found<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a EntryId> + Send,
    ) -> Result<Vec<Option<Versioned>>, StoreError> {
        let key = |id: &EntryId| Key::new(Table::Entry, id.as_str());
        let rows = self.backend.get(ids.into_iter().map(key).collect()).await?;
        let versioned = |row: Row| {
            Ok(Versioned {
                record: Entry::read(&row)?,
                version: row.version,
            })
        };
        rows.into_iter()
            .map(|row| row.map(versioned).transpose())
            .collect()
    }

    /// Reads the rows that list the entries similar to these.
    pub(crate) async fn similar_found<'a>(
        &self,
        entries: impl Iterator<Item = &'a Entry> + Send,
    ) -> Result<Similar, StoreError> {
        let mut keys: Vec<Key> = entries.map(similar_key).collect();
        keys.sort_unstable();
        keys.dedup();
        let rows = self.backend.get(keys.clone()).await?;
        let mut found = Similar::default();
        for (key, row) in keys.into_iter().zip(rows) {
            let alike = match row {
                Some(row) => (Expect::Version(row.version), entry_ids(&row)?),
                None => (Expect::Absent, Vec::new()),
            };
            found.0.insert(key, alike);
        }
        Ok(found)
    }
}

/// An entry, and the version of its row.
pub(crate) struct Versioned {
    pub(crate) record: Record<Entry>,
    pub(crate) version: Seq,
}

/// An update: what the entry becomes, and what it was.
struct Plan {
    new: Entry,
    old: Versioned,
}

/// The rows `similar/…` as read: the expected version of each, and its entries.
#[derive(Default)]
pub(crate) struct Similar(HashMap<Key, (Expect, Vec<String>)>);

impl Similar {
    /// Adds a change of this row's entries to a commit. Of the commits in one batch only the first that touches a row
    /// can succeed; the others are planned again.
    pub(crate) fn change(
        &self,
        commit: &mut Commit,
        key: Key,
        change: impl FnOnce(&mut Vec<String>),
    ) {
        let (expect, mut ids) = match self.0.get(&key) {
            Some((expect, ids)) => (*expect, ids.clone()),
            None => (Expect::Absent, Vec::new()),
        };
        change(&mut ids);
        commit.expect.push((key.clone(), expect));
        if ids.is_empty() {
            commit.delete.push(key);
        } else {
            commit
                .put
                .push((key, v1::Similar { entry_ids: ids }.encode_to_vec().into()));
        }
    }
}

/// The commit that creates an entry.
pub(crate) fn creation(entry: &Entry) -> Commit {
    let similar = similar_key(entry);
    let ids = v1::Similar {
        entry_ids: vec![entry.id.to_string()],
    };
    // The first expectation that fails is reported: SPIRE looks for a similar entry before it checks the ID.
    let mut expect = vec![
        (similar.clone(), Expect::Absent),
        (entry.key(), Expect::Absent),
    ];
    expect.extend(federation(entry));
    let put = vec![
        (entry.key(), entry.value(Seq::ZERO)),
        (similar, ids.encode_to_vec().into()),
    ];
    Commit {
        expect,
        put,
        delete: Vec::new(),
    }
}

fn replacement(plan: &Plan, similar: &Similar) -> Commit {
    let Plan { new, old } = plan;
    let mut commit = Commit {
        expect: vec![(new.key(), Expect::Version(old.version))],
        put: vec![(new.key(), new.value(old.record.created))],
        delete: Vec::new(),
    };
    commit.expect.extend(federation(new));
    let (before, after) = (similar_key(&old.record.value), similar_key(new));
    // An update may make entries similar: SPIRE does not check for that either.
    if before != after {
        let id = new.id.as_str();
        similar.change(&mut commit, before, |ids| ids.retain(|other| other != id));
        similar.change(&mut commit, after, |ids| ids.push(id.to_owned()));
    }
    commit
}

fn deletion(entry: &Versioned, similar: &Similar) -> Commit {
    let Versioned { record, version } = entry;
    let mut commit = Commit {
        expect: vec![(record.value.key(), Expect::Version(*version))],
        put: Vec::new(),
        delete: vec![record.value.key()],
    };
    forget_similar(&mut commit, &record.value, similar);
    commit
}

/// Adds to a commit the removal of an entry from its `similar/…` row.
pub(crate) fn forget_similar(commit: &mut Commit, entry: &Entry, similar: &Similar) {
    let id = entry.id.as_str();
    similar.change(commit, similar_key(entry), |ids| {
        ids.retain(|other| other != id);
    });
}

/// The expectations that the bundles of an entry's federated trust domains exist.
fn federation(entry: &Entry) -> impl Iterator<Item = (Key, Expect)> {
    entry
        .federates_with
        .iter()
        .map(|td| (bundle_key(td), Expect::Present))
}

/// The trust domain without a bundle, if that is the conflicting row.
fn missing_bundle(entry: &Entry, key: &Key) -> Option<TrustDomain> {
    let mut federates_with = entry.federates_with.iter();
    federates_with
        .find(|td| key.table() == Table::Bundle && key.name() == td.as_str())
        .cloned()
}

/// An entry after a change, with the store's own fields from the old one.
pub(crate) fn successor(old: &Entry, new: Entry) -> Entry {
    Entry {
        id: old.id.clone(),
        created_at: old.created_at,
        revision_number: old.revision_number.saturating_add(1),
        ..new
    }
}

/// The items in groups without repeats, so that an entry that comes twice is changed twice, in order.
fn waves(ids: &[EntryId]) -> Vec<Vec<(usize, &EntryId)>> {
    let mut waves: Vec<Vec<(usize, &EntryId)>> = Vec::new();
    let mut times: HashMap<&EntryId, usize> = HashMap::new();
    for (i, id) in ids.iter().enumerate() {
        let time = times.entry(id).or_default();
        match waves.get_mut(*time) {
            Some(wave) => wave.push((i, id)),
            None => waves.push(vec![(i, id)]),
        }
        *time += 1;
    }
    waves
}

/// The row that lists the entries similar to this one. The hash is of the parts with their lengths, so that entries
/// that differ never share it.
pub(crate) fn similar_key(entry: &Entry) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut part = |text: &str| {
        hash.update(&text.len().to_be_bytes());
        hash.update(text.as_bytes());
    };
    part(entry.spiffe_id.as_str());
    part(entry.parent_id.as_str());
    for selector in &entry.selectors {
        part(selector.kind());
        part(selector.value());
    }
    let hex = hash
        .finish()
        .as_ref()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            use std::fmt::Write as _;
            // Writing to a string can't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    Key::new(Table::Similar, &hex)
}

fn entry_ids(row: &Row) -> Result<Vec<String>, StoreError> {
    let v1::Similar { entry_ids } =
        v1::Similar::decode(row.value.clone()).map_err(|e| damaged(&row.key, &e))?;
    Ok(entry_ids)
}
