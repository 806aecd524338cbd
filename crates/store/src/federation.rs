//! What is known of foreign trust domains: their bundles, and from where these come.

use std::collections::HashMap;

use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, EntryId, TrustDomain};

use super::backend::{Commit, Expect, Key, Seq, Table};
use super::bundle::bundle_key;
use super::record::Stored as _;
use super::{MAX_RETRIES, Record, Store, StoreError, Written};
use crate::limits;

/// What becomes of the entries that federate with a trust domain whose bundle is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Federating {
    /// As long as there are any, the bundle stays.
    Keep,
    /// They are removed.
    Delete,
    /// They stay, and no longer federate with it.
    Dissociate,
}

/// Why the bundle of a foreign trust domain was not written or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleKept {
    /// There is one already.
    #[error("bundle already exists")]
    Exists,
    /// There is none.
    #[error("bundle not found")]
    Missing,
    /// So many entries federate with its trust domain.
    #[error("cannot delete bundle; federated with {0} registration entries")]
    Federated(usize),
}

/// Why a relationship was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelationshipError {
    /// There is one already.
    #[error("a federation relationship with this trust domain already exists; update it instead")]
    Exists,
    /// There is none.
    #[error("unable to fetch federation relationship: record not found")]
    Missing,
}

impl Store {
    /// Makes the bundle of a foreign trust domain.
    ///
    /// # Errors
    /// The store failed. Within: there is one already.
    pub async fn bundle_create(
        &self,
        bundle: &Bundle,
    ) -> Result<Result<Written<Bundle>, BundleKept>, StoreError> {
        let commit = Commit {
            expect: vec![(bundle.key(), Expect::Absent)],
            put: vec![(bundle.key(), bundle.value(Seq::ZERO))],
            delete: Vec::new(),
        };
        Ok(match self.commit(commit).await? {
            Ok(seq) => Ok(written(bundle.clone(), seq)),
            Err(_) => Err(BundleKept::Exists),
        })
    }

    /// Changes the bundle of a foreign trust domain. `change` may be called again when somebody else was faster.
    ///
    /// # Errors
    /// The store failed. Within: there is none.
    pub async fn bundle_update(
        &self,
        td: &TrustDomain,
        change: impl Fn(&Bundle) -> Bundle + Send,
    ) -> Result<Result<Written<Bundle>, BundleKept>, StoreError> {
        let key = bundle_key(td);
        for _ in 0..=MAX_RETRIES {
            let Some((old, version)) = self.read::<Bundle>(&key).await? else {
                return Ok(Err(BundleKept::Missing));
            };
            let new = change(&old.value);
            let commit = Commit {
                expect: vec![(key.clone(), Expect::Version(version))],
                put: vec![(key.clone(), new.value(old.created))],
                delete: Vec::new(),
            };
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Ok(written(new, seq)));
            }
        }
        Err(busy("change the bundle"))
    }

    /// Writes the bundle of a foreign trust domain, whether there was one or not.
    ///
    /// # Errors
    /// The store failed.
    pub async fn bundle_set(&self, bundle: &Bundle) -> Result<Written<Bundle>, StoreError> {
        for _ in 0..=MAX_RETRIES {
            let mut commit = Commit::default();
            self.set_in(&mut commit, bundle).await?;
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(written(bundle.clone(), seq));
            }
        }
        Err(busy("set the bundle"))
    }

    /// Removes the bundle of a foreign trust domain, in one commit with what becomes of the entries that federate with
    /// it: `federating`, as the registry shows them. Of very many the first are changed in commits of their own.
    ///
    /// # Errors
    /// The store failed. Within: there is no bundle, or it stays because of the entries.
    pub async fn bundle_delete(
        &self,
        td: &TrustDomain,
        mode: Federating,
        federating: &[EntryId],
    ) -> Result<Result<Seq, BundleKept>, StoreError> {
        let key = bundle_key(td);
        let mut federating = federating;
        for _ in 0..=MAX_RETRIES {
            let Some((_, version)) = self.read::<Bundle>(&key).await? else {
                return Ok(Err(BundleKept::Missing));
            };
            while mode != Federating::Keep && federating.len() > limits::MAX_COMMIT_ENTRIES {
                let (first, rest) = federating.split_at(limits::MAX_COMMIT_ENTRIES);
                self.part(td, mode, first).await?;
                federating = rest;
            }
            let mut commit = Commit {
                expect: vec![(key.clone(), Expect::Version(version))],
                put: Vec::new(),
                delete: vec![key.clone()],
            };
            let found = self.federating(td, federating).await?;
            match mode {
                Federating::Keep if !found.is_empty() => {
                    return Ok(Err(BundleKept::Federated(found.len())));
                }
                Federating::Keep => {}
                Federating::Delete => self.delete_in(&mut commit, &found).await?,
                Federating::Dissociate => dissociate_in(&mut commit, td, &found),
            }
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Ok(seq));
            }
        }
        Err(busy("delete the bundle"))
    }

    /// Takes entries away from a trust domain, or away altogether: those that were made while its bundle was removed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn part(
        &self,
        td: &TrustDomain,
        mode: Federating,
        entries: &[EntryId],
    ) -> Result<(), StoreError> {
        for some in entries.chunks(limits::MAX_COMMIT_ENTRIES) {
            self.part_some(td, mode, some).await?;
        }
        Ok(())
    }

    async fn part_some(
        &self,
        td: &TrustDomain,
        mode: Federating,
        entries: &[EntryId],
    ) -> Result<(), StoreError> {
        for _ in 0..=MAX_RETRIES {
            let mut commit = Commit::default();
            let found = self.federating(td, entries).await?;
            match mode {
                Federating::Delete => self.delete_in(&mut commit, &found).await?,
                Federating::Keep | Federating::Dissociate => {
                    dissociate_in(&mut commit, td, &found);
                }
            }
            if self.commit(commit).await?.is_ok() {
                return Ok(());
            }
        }
        Err(busy("change the entries that federate"))
    }

    /// Makes a relationship, in one commit with the bundle that came with it.
    ///
    /// # Errors
    /// The store failed. Within: there is one already.
    pub async fn relationship_create(
        &self,
        relationship: &Relationship,
        bundle: Option<&Bundle>,
    ) -> Result<Result<Seq, RelationshipError>, StoreError> {
        let key = relationship.key();
        for _ in 0..=MAX_RETRIES {
            let mut commit = Commit {
                expect: vec![(key.clone(), Expect::Absent)],
                put: vec![(key.clone(), relationship.value(Seq::ZERO))],
                delete: Vec::new(),
            };
            if let Some(bundle) = bundle {
                self.set_in(&mut commit, bundle).await?;
            }
            match self.commit(commit).await? {
                Ok(seq) => return Ok(Ok(seq)),
                Err(conflict) if conflict.key == key => return Ok(Err(RelationshipError::Exists)),
                Err(_) => {}
            }
        }
        Err(busy("create the federation relationship"))
    }

    /// Changes a relationship, in one commit with the bundle that came with the change.
    ///
    /// # Errors
    /// The store failed. Within: there is none.
    pub async fn relationship_update(
        &self,
        td: &TrustDomain,
        change: impl Fn(&Relationship) -> Relationship + Send,
        bundle: Option<&Bundle>,
    ) -> Result<Result<Written<Relationship>, RelationshipError>, StoreError> {
        let key = relationship_key(td);
        for _ in 0..=MAX_RETRIES {
            let Some((old, version)) = self.read::<Relationship>(&key).await? else {
                return Ok(Err(RelationshipError::Missing));
            };
            let value = change(&old.value);
            let mut commit = Commit {
                expect: vec![(key.clone(), Expect::Version(version))],
                put: vec![(key.clone(), value.value(old.created))],
                delete: Vec::new(),
            };
            if let Some(bundle) = bundle {
                self.set_in(&mut commit, bundle).await?;
            }
            if let Ok(seq) = self.commit(commit).await? {
                return Ok(Ok(Written { value, seq }));
            }
        }
        Err(busy("update the federation relationship"))
    }

    /// Removes a relationship; the bundle stays.
    ///
    /// # Errors
    /// The store failed. Within: there is none.
    pub async fn relationship_delete(
        &self,
        td: &TrustDomain,
    ) -> Result<Result<Seq, RelationshipError>, StoreError> {
        let key = relationship_key(td);
        let commit = Commit {
            expect: vec![(key.clone(), Expect::Present)],
            put: Vec::new(),
            delete: vec![key],
        };
        let done = self.commit(commit).await?;
        Ok(done.map_err(|_| RelationshipError::Missing))
    }

    /// Adds to a commit that a bundle is written as it is given.
    async fn set_in(&self, commit: &mut Commit, bundle: &Bundle) -> Result<(), StoreError> {
        let key = bundle.key();
        let (expect, created) = match self.read::<Bundle>(&key).await? {
            Some((old, version)) => (Expect::Version(version), old.created),
            None => (Expect::Absent, Seq::ZERO),
        };
        commit.expect.push((key.clone(), expect));
        commit.put.push((key, bundle.value(created)));
        Ok(())
    }

    /// Those of the entries that are there and federate with a trust domain.
    async fn federating(
        &self,
        td: &TrustDomain,
        entries: &[EntryId],
    ) -> Result<Vec<(Record<Entry>, Seq)>, StoreError> {
        let items: Vec<_> = entries.iter().cloned().enumerate().collect();
        let found = self.entries_found(&items).await?;
        let federates =
            |(record, _): &(Record<Entry>, Seq)| record.value.federates_with.contains(td);
        Ok(found.into_iter().flatten().filter(federates).collect())
    }

    /// Adds to a commit that entries are removed.
    async fn delete_in(
        &self,
        commit: &mut Commit,
        entries: &[(Record<Entry>, Seq)],
    ) -> Result<(), StoreError> {
        let similar = self.similar_found(entries.iter().map(|(record, _)| &record.value));
        let similar = similar.await?;
        let mut alike: HashMap<Key, Vec<&str>> = HashMap::new();
        for (record, version) in entries {
            commit
                .expect
                .push((record.value.key(), Expect::Version(*version)));
            commit.delete.push(record.value.key());
            let ids = alike.entry(super::entry::similar_key(&record.value));
            ids.or_default().push(record.value.id.as_str());
        }
        // Entries that are alike share a row, which a commit writes once.
        for (key, gone) in alike {
            similar.change(commit, key, |ids| {
                ids.retain(|id| !gone.contains(&id.as_str()));
            });
        }
        Ok(())
    }
}

/// Adds to a commit that entries no longer federate with a trust domain. Their other bundles are not looked at.
fn dissociate_in(commit: &mut Commit, td: &TrustDomain, entries: &[(Record<Entry>, Seq)]) {
    for (old, version) in entries {
        let mut new = old.value.clone();
        new.federates_with.retain(|other| other != td);
        let new = super::entry::successor(&old.value, new);
        commit.expect.push((new.key(), Expect::Version(*version)));
        commit.put.push((new.key(), new.value(old.created)));
    }
}

fn written(value: Bundle, seq: Seq) -> Written<Bundle> {
    Written { value, seq }
}

const fn busy(doing: &'static str) -> StoreError {
    StoreError::Busy { doing }
}

fn relationship_key(td: &TrustDomain) -> Key {
    Key::new(Table::Relationship, td.as_str())
}

#[cfg(test)]
mod tests;
