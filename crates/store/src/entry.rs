//! Registration entries. No two are made alike: same SPIFFE ID, same parent, same selectors.

use std::collections::HashMap;

use aws_lc_rs::digest;
use countersign_identity::{Entry, EntryId, TrustDomain};
use countersign_proto::store::v1;
use prost::Message as _;

use super::backend::{Commit, Conflict, Expect, Key, Row, Seq, Table};
use super::record::Stored as _;
use super::{MAX_RETRIES, Record, Store, StoreError, Written, bundle, damaged};

/// Why an entry was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryExists {
    /// This one is like it.
    #[error("similar entry already exists")]
    Similar(Box<Record<Entry>>),
    /// The ID is another entry's.
    #[error("an entry with this ID already exists")]
    Id,
    /// It federates with a trust domain whose bundle is not there.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    BundleMissing(TrustDomain),
    /// The same rows were changed by others again and again.
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
    /// It would federate with a trust domain whose bundle is not there.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    BundleMissing(TrustDomain),
    /// The change was refused.
    #[error("{0}")]
    Refused(E),
    /// The same rows were changed by others again and again.
    #[error("the entry was changed by others again and again; try again")]
    Busy,
}

impl Store {
    /// Makes entries; one result for each, in order. The entries come with their IDs.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_create(
        &self,
        entries: &[Entry],
    ) -> Result<Vec<Result<Written<Record<Entry>>, EntryExists>>, StoreError> {
        let mut results: Vec<_> = entries.iter().map(|_| Err(EntryExists::Busy)).collect();
        let mut open: Vec<usize> = (0..entries.len()).collect();
        for _ in 0..=MAX_RETRIES {
            let tried: Vec<(usize, &Entry)> = open
                .iter()
                .filter_map(|&i| Some((i, entries.get(i)?)))
                .collect();
            let commits = tried.iter().map(|(_, entry)| creation(entry)).collect();
            let committed = self.commit_all(commits).await?;
            let mut again = Vec::new();
            for ((i, entry), outcome) in tried.into_iter().zip(committed) {
                let result = match outcome {
                    Ok(seq) => {
                        let value = Record {
                            value: entry.clone(),
                            created: seq,
                        };
                        Some(Ok(Written { value, seq }))
                    }
                    Err(Conflict { key }) => self.explain(entry, &key).await?.map(Err),
                };
                match (result, results.get_mut(i)) {
                    (Some(result), Some(slot)) => *slot = result,
                    _ => again.push(i),
                }
            }
            if again.is_empty() {
                break;
            }
            open = again;
        }
        Ok(results)
    }

    /// Changes entries; one result for each, in order. `change` gets the number of the item and the entry as it is,
    /// possibly more than once; the ID, the time of creation and the revision stay the store's.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_update<E: Send>(
        &self,
        ids: &[EntryId],
        change: impl Fn(usize, &Entry) -> Result<Entry, E> + Send,
    ) -> Result<Vec<Result<Written<Record<Entry>>, UpdateError<E>>>, StoreError> {
        let mut results: Vec<_> = ids.iter().map(|_| Err(UpdateError::Busy)).collect();
        for mut open in waves(ids) {
            // Of items that are alike only one succeeds in each round.
            for _ in 0..=MAX_RETRIES + open.len() {
                let found = self.entries_found(&open).await?;
                let mut planned = Vec::new();
                for ((i, _), found) in open.iter().zip(found) {
                    let outcome = match found {
                        None => Err(UpdateError::Missing),
                        Some((old, version)) => change(*i, &old.value)
                            .map_err(UpdateError::Refused)
                            .map(|new| Plan {
                                new: successor(&old.value, new),
                                old,
                                version,
                            }),
                    };
                    match outcome {
                        Ok(plan) => planned.push((*i, plan)),
                        Err(error) => set(&mut results, *i, Err(error)),
                    }
                }
                open = self.update_round(planned, &mut results).await?;
                if open.is_empty() {
                    break;
                }
            }
        }
        Ok(results)
    }

    /// Removes entries; one result for each, in order.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_delete(
        &self,
        ids: &[EntryId],
    ) -> Result<Vec<Result<Seq, EntryMissing>>, StoreError> {
        self.entries_delete_if(ids, |_| true).await
    }

    /// Removes those entries that are still as `doomed` says; the others count as missing.
    ///
    /// # Errors
    /// The store failed; then nothing is known about any of them.
    pub async fn entries_delete_if(
        &self,
        ids: &[EntryId],
        doomed: impl Fn(&Entry) -> bool + Send,
    ) -> Result<Vec<Result<Seq, EntryMissing>>, StoreError> {
        let mut results: Vec<_> = ids.iter().map(|_| Err(EntryMissing)).collect();
        let mut open: Vec<(usize, EntryId)> = ids.iter().cloned().enumerate().collect();
        // Of items that are alike only one succeeds in each round.
        for _ in 0..=MAX_RETRIES + open.len() {
            let found = self.entries_found(&open).await?;
            let tried: Vec<_> = open
                .into_iter()
                .zip(found)
                .filter_map(|(item, found)| Some((item, found?)))
                .filter(|(_, (record, _))| doomed(&record.value))
                .collect();
            if tried.is_empty() {
                return Ok(results);
            }
            let entries: Vec<&Entry> = tried.iter().map(|(_, (old, _))| &old.value).collect();
            let similar = self.similar_found(entries.iter().copied()).await?;
            let commits = tried
                .iter()
                .map(|(_, (record, version))| deletion(&record.value, *version, &similar))
                .collect();
            let committed = self.commit_all(commits).await?;
            open = Vec::new();
            for ((item, _), outcome) in tried.into_iter().zip(committed) {
                match outcome {
                    Ok(seq) => set(&mut results, item.0, Ok(seq)),
                    Err(_) => open.push(item),
                }
            }
            if open.is_empty() {
                return Ok(results);
            }
        }
        Err(StoreError::Busy {
            doing: "delete entries",
        })
    }

    /// Why an entry could not be made, given the row that was in the way; `None` if that row has changed meanwhile.
    async fn explain(&self, entry: &Entry, key: &Key) -> Result<Option<EntryExists>, StoreError> {
        match key.table() {
            Table::Similar => {
                let row = self.backend.get(vec![key.clone()]).await?.pop().flatten();
                let Some(row) = row else { return Ok(None) };
                let Some(id) = entry_ids(&row)?.into_iter().next() else {
                    return Ok(None);
                };
                let found = self.read::<Entry>(&Key::new(Table::Entry, &id)).await?;
                Ok(found.map(|(record, _)| EntryExists::Similar(Box::new(record))))
            }
            Table::Bundle => {
                let missing = entry
                    .federates_with
                    .iter()
                    .find(|td| td.as_str() == key.name());
                Ok(missing.cloned().map(EntryExists::BundleMissing))
            }
            _ => Ok(Some(EntryExists::Id)),
        }
    }

    /// Commits planned updates; returns those to plan again.
    async fn update_round<E>(
        &self,
        planned: Vec<(usize, Plan)>,
        results: &mut [Result<Written<Record<Entry>>, UpdateError<E>>],
    ) -> Result<Vec<(usize, EntryId)>, StoreError> {
        let touched = planned
            .iter()
            .flat_map(|(_, plan)| [&plan.new, &plan.old.value]);
        let similar = self.similar_found(touched).await?;
        let commits = planned
            .iter()
            .map(|(_, plan)| replacement(&plan.new, &plan.old, plan.version, &similar))
            .collect();
        let committed = self.commit_all(commits).await?;
        let mut again = Vec::new();
        for ((i, Plan { new, old, .. }), outcome) in planned.into_iter().zip(committed) {
            match outcome {
                Ok(seq) => {
                    let value = Record {
                        value: new,
                        created: old.created,
                    };
                    set(results, i, Ok(Written { value, seq }));
                }
                Err(Conflict { key }) if key.table() == Table::Bundle => {
                    let td = new
                        .federates_with
                        .iter()
                        .find(|td| td.as_str() == key.name());
                    if let Some(td) = td {
                        set(results, i, Err(UpdateError::BundleMissing(td.clone())));
                    }
                }
                Err(_) => again.push((i, new.id)),
            }
        }
        Ok(again)
    }

    pub(super) async fn entries_found(
        &self,
        items: &[(usize, EntryId)],
    ) -> Result<Vec<Option<(Record<Entry>, Seq)>>, StoreError> {
        let keys = items
            .iter()
            .map(|(_, id)| Key::new(Table::Entry, id.as_str()))
            .collect();
        let rows = self.backend.get(keys).await?;
        rows.into_iter()
            .map(|row| {
                row.map(|row| Ok((Entry::read(&row)?, row.version)))
                    .transpose()
            })
            .collect()
    }

    /// The rows that say which entries are like these.
    pub(super) async fn similar_found<'a>(
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

/// An update: what the entry becomes, what it was, and the version of its row.
struct Plan {
    new: Entry,
    old: Record<Entry>,
    version: Seq,
}

/// The rows `similar/…` as they were read: what to expect of each, and the entries in it.
#[derive(Default)]
pub(super) struct Similar(HashMap<Key, (Expect, Vec<String>)>);

impl Similar {
    /// Adds to a commit that this row's entries change. Of the commits of one batch only the first that touches a row
    /// can succeed; the others are planned again.
    pub(super) fn change(
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

/// The commit that makes an entry.
pub(super) fn creation(entry: &Entry) -> Commit {
    let similar = similar_key(entry);
    let ids = v1::Similar {
        entry_ids: vec![entry.id.to_string()],
    };
    // The order tells what is reported first.
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

fn replacement(new: &Entry, old: &Record<Entry>, version: Seq, similar: &Similar) -> Commit {
    let mut commit = Commit {
        expect: vec![(new.key(), Expect::Version(version))],
        put: vec![(new.key(), new.value(old.created))],
        delete: Vec::new(),
    };
    commit.expect.extend(federation(new));
    let (before, after) = (similar_key(&old.value), similar_key(new));
    if before != after {
        let id = new.id.as_str();
        similar.change(&mut commit, before, |ids| ids.retain(|other| other != id));
        similar.change(&mut commit, after, |ids| ids.push(id.to_owned()));
    }
    commit
}

/// The commit that removes an entry.
pub(super) fn deletion(entry: &Entry, version: Seq, similar: &Similar) -> Commit {
    let mut commit = Commit {
        expect: vec![(entry.key(), Expect::Version(version))],
        put: Vec::new(),
        delete: vec![entry.key()],
    };
    let id = entry.id.as_str();
    similar.change(&mut commit, similar_key(entry), |ids| {
        ids.retain(|other| other != id);
    });
    commit
}

/// The bundles that must be there for an entry.
fn federation(entry: &Entry) -> impl Iterator<Item = (Key, Expect)> {
    entry
        .federates_with
        .iter()
        .map(|td| (bundle::bundle_key(td), Expect::Present))
}

/// What a change makes of an entry.
pub(super) fn successor(old: &Entry, new: Entry) -> Entry {
    Entry {
        id: old.id.clone(),
        created_at: old.created_at,
        revision_number: old.revision_number.saturating_add(1),
        ..new
    }
}

/// The items in groups without repeats, so that an entry that comes twice is changed twice, in order.
fn waves(ids: &[EntryId]) -> Vec<Vec<(usize, EntryId)>> {
    let mut waves: Vec<Vec<(usize, EntryId)>> = Vec::new();
    let mut times: HashMap<&EntryId, usize> = HashMap::new();
    for (i, id) in ids.iter().enumerate() {
        let time = times.entry(id).or_default();
        match waves.get_mut(*time) {
            Some(wave) => wave.push((i, id.clone())),
            None => waves.push(vec![(i, id.clone())]),
        }
        *time += 1;
    }
    waves
}

fn set<T>(results: &mut [T], i: usize, result: T) {
    if let Some(slot) = results.get_mut(i) {
        *slot = result;
    }
}

/// Where it stands which entries are like this one. The hash is of the parts with their lengths, so that no two
/// different entries share it.
pub(super) fn similar_key(entry: &Entry) -> Key {
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
