//! Foreign trust domains: their bundles, and the relationships by which these are fetched.

use std::collections::HashMap;

use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, EntryId, TrustDomain};
use futures::FutureExt as _;

use crate::backend::{Commit, Expect, Key, Seq, Table};
use crate::bundle::bundle_key;
use crate::entry::{Versioned, similar_key, successor};
use crate::limits;
use crate::record::Stored as _;
use crate::txn::Txn;
use crate::{Pending, Store, StoreError};

/// What to do with the entries that federate with a trust domain whose bundle is removed: SPIRE's modes `restrict`,
/// `delete` and `dissociate` (wire contract, A.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Federating {
    /// Refuse to remove the bundle while there are any.
    Keep,
    /// Delete them.
    Delete,
    /// Remove the trust domain from them.
    Dissociate,
}

/// Why the bundle of a foreign trust domain was not written or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// There is one already.
    #[error("bundle already exists")]
    Exists,
    /// There is none.
    #[error("bundle not found")]
    Missing,
    /// This many entries federate with its trust domain.
    #[error("cannot delete bundle; federated with {0} registration entries")]
    Federated(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a relationship was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelationshipError {
    /// There is one already.
    #[error("a federation relationship with this trust domain already exists; update it instead")]
    Exists,
    /// There is none.
    #[error("unable to fetch federation relationship: record not found")]
    Missing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Creates the bundle of a foreign trust domain.
    ///
    /// # Errors
    /// There is one already, or the store failed.
    pub async fn bundle_create(&self, bundle: &Bundle) -> Result<Pending<Bundle>, BundleError> {
        let commit = Commit {
            expect: vec![(bundle.key(), Expect::Absent)],
            put: vec![(bundle.key(), bundle.value(Seq::ZERO))],
            delete: Vec::new(),
        };
        match self.commit(commit).await? {
            Ok(seq) => Ok(Pending::new(bundle.clone(), seq)),
            Err(_) => Err(BundleError::Exists),
        }
    }

    /// Changes the bundle of a foreign trust domain. `change` may be called again if another writer changes the bundle
    /// meanwhile.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn bundle_update(
        &self,
        td: &TrustDomain,
        change: impl Fn(&Bundle) -> Bundle + Send + Sync,
    ) -> Result<Pending<Bundle>, BundleError> {
        let change = &change;
        self.retry("change the bundle", move |txn| {
            async move {
                let old = txn.read::<Bundle>(&bundle_key(td)).await?;
                let old = old.ok_or(BundleError::Missing)?;
                let new = change(&old.value);
                txn.put_row(bundle_key(td), new.value(old.created));
                Ok(new)
            }
            .boxed()
        })
        .await
    }

    /// Writes the bundle of a foreign trust domain, whether there was one or not.
    ///
    /// # Errors
    /// The store failed.
    pub async fn bundle_set(&self, bundle: &Bundle) -> Result<Pending<Bundle>, StoreError> {
        self.retry("set the bundle", move |txn| {
            async move {
                set_bundle(txn, bundle).await?;
                Ok(bundle.clone())
            }
            .boxed()
        })
        .await
    }

    /// Removes the bundle of a foreign trust domain, in one commit with the changes of the entries that federate with
    /// it (`federating`, from the server's index). If there are very many, the first are changed in commits of their
    /// own.
    ///
    /// # Errors
    /// There is no bundle, it stays because of the entries, or the store failed.
    pub async fn bundle_delete(
        &self,
        td: &TrustDomain,
        mode: Federating,
        federating: &[EntryId],
    ) -> Result<Pending<()>, BundleError> {
        let key = &bundle_key(td);
        let (many, last) = match mode {
            // They are only counted.
            Federating::Keep => (federating.split_at(0).0, federating),
            Federating::Delete | Federating::Dissociate => {
                let last = federating.len().min(limits::MAX_COMMIT_ENTRIES);
                federating.split_at(federating.len() - last)
            }
        };
        if !many.is_empty() {
            // Without a bundle there is nothing to remove, and no entry may be changed.
            self.read::<Bundle>(key)
                .await?
                .ok_or(BundleError::Missing)?;
            self.part(td, mode, many).await?.unseen();
        }
        self.retry("delete the bundle", move |txn| {
            async move {
                txn.read::<Bundle>(key).await?.ok_or(BundleError::Missing)?;
                txn.delete(key.clone());
                let found = self.federating(td, last).await?;
                match mode {
                    Federating::Keep if !found.is_empty() => {
                        return Err(BundleError::Federated(found.len()));
                    }
                    Federating::Keep => {}
                    Federating::Delete => self.delete_in(txn.commit(), &found).await?,
                    Federating::Dissociate => dissociate_in(txn.commit(), td, &found),
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Deletes entries or takes a trust domain out of them: those that were made while its bundle was removed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn part(
        &self,
        td: &TrustDomain,
        mode: Federating,
        entries: &[EntryId],
    ) -> Result<Pending<()>, StoreError> {
        let mut last = Pending::new((), Seq::ZERO);
        for chunk in entries.chunks(limits::MAX_COMMIT_ENTRIES) {
            last = self.part_chunk(td, mode, chunk).await?;
        }
        Ok(last)
    }

    async fn part_chunk(
        &self,
        td: &TrustDomain,
        mode: Federating,
        entries: &[EntryId],
    ) -> Result<Pending<()>, StoreError> {
        self.retry("change the entries that federate", move |txn| {
            async move {
                let found = self.federating(td, entries).await?;
                match mode {
                    Federating::Delete => self.delete_in(txn.commit(), &found).await?,
                    // The bundle is already removed: entries can't prevent that any more.
                    Federating::Keep | Federating::Dissociate => {
                        dissociate_in(txn.commit(), td, &found);
                    }
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Creates a relationship, in one commit with the bundle that came with it.
    ///
    /// # Errors
    /// There is one already, or the store failed.
    pub async fn relationship_create(
        &self,
        relationship: &Relationship,
        bundle: Option<&Bundle>,
    ) -> Result<Pending<()>, RelationshipError> {
        let key = &relationship.key();
        self.retry("create the federation relationship", move |txn| {
            async move {
                if txn.row(key).await?.is_some() {
                    return Err(RelationshipError::Exists);
                }
                txn.put(relationship, Seq::ZERO);
                if let Some(bundle) = bundle {
                    set_bundle(txn, bundle).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Changes a relationship, in one commit with the bundle that came with the change.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn relationship_update(
        &self,
        td: &TrustDomain,
        change: impl Fn(&Relationship) -> Relationship + Send + Sync,
        bundle: Option<&Bundle>,
    ) -> Result<Pending<Relationship>, RelationshipError> {
        let (key, change) = (&relationship_key(td), &change);
        self.retry("update the federation relationship", move |txn| {
            async move {
                let old = txn.read::<Relationship>(key).await?;
                let old = old.ok_or(RelationshipError::Missing)?;
                let new = change(&old.value);
                txn.put_row(key.clone(), new.value(old.created));
                if let Some(bundle) = bundle {
                    set_bundle(txn, bundle).await?;
                }
                Ok(new)
            }
            .boxed()
        })
        .await
    }

    /// Removes a relationship; the bundle stays.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn relationship_delete(
        &self,
        td: &TrustDomain,
    ) -> Result<Pending<()>, RelationshipError> {
        let key = relationship_key(td);
        let commit = Commit {
            expect: vec![(key.clone(), Expect::Present)],
            put: Vec::new(),
            delete: vec![key],
        };
        match self.commit(commit).await? {
            Ok(seq) => Ok(Pending::new((), seq)),
            Err(_) => Err(RelationshipError::Missing),
        }
    }

    /// The entries that still exist and federate with the trust domain.
    async fn federating(
        &self,
        td: &TrustDomain,
        entries: &[EntryId],
    ) -> Result<Vec<Versioned>, StoreError> {
        let found = self.entries_found(entries).await?;
        let federates = |entry: &Versioned| entry.record.value.federates_with.contains(td);
        Ok(found.into_iter().flatten().filter(federates).collect())
    }

    /// Adds the removal of entries to a commit.
    async fn delete_in(
        &self,
        commit: &mut Commit,
        entries: &[Versioned],
    ) -> Result<(), StoreError> {
        let similar = self
            .similar_found(entries.iter().map(|entry| &entry.record.value))
            .await?;
        let mut alike: HashMap<Key, Vec<&str>> = HashMap::new();
        for Versioned { record, version } in entries {
            let key = record.value.key();
            commit.expect.push((key.clone(), Expect::Version(*version)));
            commit.delete.push(key);
            let ids = alike.entry(similar_key(&record.value));
            ids.or_default().push(record.value.id.as_str());
        }
        // Similar entries share a row, which one commit can write only once.
        for (key, gone) in alike {
            similar.change(commit, key, |ids| {
                ids.retain(|id| !gone.contains(&id.as_str()));
            });
        }
        Ok(())
    }
}

/// Writes a bundle as given; a replaced one keeps its creation order in lists.
async fn set_bundle(txn: &mut Txn<'_>, bundle: &Bundle) -> Result<(), StoreError> {
    let old = txn.read::<Bundle>(&bundle.key()).await?;
    txn.put(bundle, old.map_or(Seq::ZERO, |old| old.created));
    Ok(())
}

/// Adds to a commit that entries no longer federate with a trust domain. Whether their other bundles exist was checked
/// when they were written.
fn dissociate_in(commit: &mut Commit, td: &TrustDomain, entries: &[Versioned]) {
    for Versioned { record, version } in entries {
        let mut new = record.value.clone();
        new.federates_with.retain(|other| other != td);
        let new = successor(&record.value, new);
        commit.expect.push((new.key(), Expect::Version(*version)));
        commit.put.push((new.key(), new.value(record.created)));
    }
}

fn relationship_key(td: &TrustDomain) -> Key {
    Key::new(Table::Relationship, td.as_str())
}

#[cfg(test)]
mod tests;
