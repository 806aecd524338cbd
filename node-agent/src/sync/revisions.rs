//! The paged form of SyncAuthorizedEntries: which entries have to be fetched whole (wire contract, D.2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_identity::EntryId;
use countersign_proto::spire::api::server::entry::v1::sync_authorized_entries_response::EntryRevision;

use crate::entry::AuthorizedEntry;
use crate::limits;

/// Entries by ID.
pub(crate) type Entries = BTreeMap<EntryId, Arc<AuthorizedEntry>>;

/// The server broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolFault {
    /// Whole entries while revisions were being listed.
    #[error("the server sent whole entries among the pages of revisions")]
    EntriesAmongRevisions,
    /// Revisions while whole entries were being sent.
    #[error("the server sent revisions among the pages of entries")]
    RevisionsAmongEntries,
    /// The stream ended in between.
    #[error("the server ended the stream before the last page")]
    EndedEarly,
    /// More than [`limits::ENTRIES`].
    #[error(
        "the server authorised more than {} entries for this node",
        limits::ENTRIES
    )]
    TooMany,
}

/// What the pages of revisions said, against what is known here.
#[derive(Debug, Default)]
pub(crate) struct Revisions {
    listed: BTreeSet<EntryId>,
    stale: BTreeSet<EntryId>,
}

impl Revisions {
    /// Takes one page in. Revisions that make no sense are left out, as if they were not listed.
    ///
    /// # Errors
    /// [`ProtocolFault::TooMany`].
    pub(crate) fn take(
        &mut self,
        page: &[EntryRevision],
        known: &Entries,
    ) -> Result<(), ProtocolFault> {
        for revision in page {
            let Ok(id) = EntryId::new(&revision.id) else {
                tracing::warn!(
                    entry = revision.id,
                    "Entry revision left out: malformed entry ID"
                );
                continue;
            };
            if revision.revision_number < 0 {
                tracing::warn!(
                    entry = revision.id,
                    "Entry revision left out: negative revision"
                );
                continue;
            }
            if !known
                .get(&id)
                .is_some_and(|entry| is_current(entry, revision))
            {
                self.stale.insert(id.clone());
            }
            self.listed.insert(id);
            if self.listed.len() > limits::ENTRIES {
                return Err(ProtocolFault::TooMany);
            }
        }
        Ok(())
    }

    /// The entries to ask for, in order, in pages of this size.
    #[must_use]
    pub(crate) fn to_fetch(&self, page_size: usize) -> Vec<Vec<String>> {
        let ids: Vec<String> = self.stale.iter().map(ToString::to_string).collect();
        ids.chunks(page_size.max(1))
            .map(<[String]>::to_vec)
            .collect()
    }

    /// The complete set: what is listed, from what was known and what was fetched. A listed entry that the server then
    /// left out is gone.
    #[must_use]
    pub(crate) fn complete(self, known: &Entries, fetched: Entries) -> Entries {
        let current = |id: &EntryId| known.get(id).filter(|_| !self.stale.contains(id));
        let mut complete: Entries = self
            .listed
            .iter()
            .filter_map(|id| current(id).map(|entry| (id.clone(), Arc::clone(entry))))
            .collect();
        complete.extend(
            fetched
                .into_iter()
                .filter(|(id, _)| self.stale.contains(id)),
        );
        complete
    }
}

fn is_current(entry: &AuthorizedEntry, revision: &EntryRevision) -> bool {
    entry.revision == revision.revision_number
        && (revision.created_at == 0 || entry.created_at == revision.created_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    fn known(entries: &[(&str, i64, i64)]) -> Entries {
        entries
            .iter()
            .map(|(id, revision, created_at)| {
                let entry = AuthorizedEntry {
                    revision: *revision,
                    created_at: *created_at,
                    ..entry(id, &["a:b"])
                };
                (entry.id.clone(), Arc::new(entry))
            })
            .collect()
    }

    fn revision(id: &str, revision_number: i64, created_at: i64) -> EntryRevision {
        EntryRevision {
            id: id.into(),
            revision_number,
            created_at,
        }
    }

    fn ids(entries: &Entries) -> Vec<&str> {
        entries.keys().map(EntryId::as_str).collect()
    }

    #[test]
    fn only_what_is_new_or_changed_is_fetched_in_sorted_pages() {
        let known = known(&[
            ("same", 1, 5),
            ("newer", 1, 5),
            ("remade", 1, 5),
            ("unsaid", 1, 5),
            ("gone", 1, 5),
        ]);
        let mut revisions = Revisions::default();
        let page = [
            revision("z-new", 0, 9),
            revision("same", 1, 5),
            revision("newer", 2, 5),
        ];
        revisions.take(&page, &known).unwrap();
        revisions
            .take(
                &[revision("remade", 1, 6), revision("unsaid", 1, 0)],
                &known,
            )
            .unwrap();
        assert_eq!(
            revisions.to_fetch(2),
            [vec!["newer", "remade"], vec!["z-new"]]
        );

        let fetched = self::known(&[("newer", 2, 5), ("z-new", 0, 9), ("uncalled-for", 0, 0)]);
        let complete = revisions.complete(&known, fetched);
        // "remade" was listed and then not sent: it went away in between.
        assert_eq!(ids(&complete), ["newer", "same", "unsaid", "z-new"]);
        assert_eq!(complete["newer"].revision, 2);
    }

    #[test]
    fn senseless_revisions_count_as_not_listed() {
        let known = known(&[("a", 1, 0)]);
        let mut revisions = Revisions::default();
        revisions
            .take(&[revision("", 1, 0), revision("a", -1, 0)], &known)
            .unwrap();
        assert!(revisions.to_fetch(500).is_empty());
        assert!(revisions.complete(&known, Entries::new()).is_empty());
    }
}
