//! Registration entries.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_identity::{Entry, EntryId};
use countersign_proto::convert::entry::masked;
use countersign_proto::spire::api::server::entry::v1 as wire;
use countersign_proto::spire::api::types;
use countersign_store::{EntryExists, UpdateError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::audit::Note;
use super::status::{self, ApiError};
use super::{Context, check_batch, count, filter, paging};
use check::{NOT_CREATED, NOT_UPDATED, Refused};

mod check;
mod sync;

pub(super) use sync::Syncs;

/// The service.
pub(super) struct EntryService(pub(super) Arc<Context>);

/// The outcome of one item of a batch.
type Item = Result<Box<Entry>, ItemError>;

/// Why an item failed, and the similar entry if one exists: SPIRE sends it along.
struct ItemError {
    error: ApiError,
    existing: Option<Box<Entry>>,
}

impl From<ApiError> for ItemError {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            existing: None,
        }
    }
}

impl ItemError {
    fn similar(existing: Entry) -> Self {
        Self {
            error: ApiError::plain(Code::AlreadyExists, SIMILAR),
            existing: Some(Box::new(existing)),
        }
    }
}

const NOT_FOUND: &str = "entry not found";

impl EntryService {
    async fn create(&self, entries: Vec<types::Entry>) -> Result<Vec<Item>, ApiError> {
        let parts = &self.0.parts;
        let now = parts.clock.now();
        let mut items: Vec<Option<Item>> = Vec::with_capacity(entries.len());
        let mut valid = Vec::with_capacity(entries.len());
        for wire in entries {
            let wire = types::Entry {
                id: if wire.id.is_empty() {
                    uuid::Uuid::new_v4().to_string()
                } else {
                    wire.id
                },
                revision_number: 0,
                created_at: now.as_i64(),
                ..wire
            };
            match self.checked(wire) {
                Ok(entry) => {
                    items.push(None);
                    valid.push(entry);
                }
                Err(failed) => items.push(Some(Err(failed))),
            }
        }
        let made = parts
            .store
            .entries_create(&valid)
            .await
            .map_err(|e| ApiError::store(NOT_CREATED, &e))?;
        let made = parts.index.visible(made).await?;
        let made = made.into_iter().map(|result| match result {
            Ok(record) => Ok(Box::new(record.value)),
            Err(EntryExists::Similar(existing)) => Err(ItemError::similar(existing.value)),
            Err(error @ EntryExists::Id) => {
                Err(ApiError::new(Code::AlreadyExists, NOT_CREATED, error).into())
            }
            Err(error @ EntryExists::BundleMissing(_)) => {
                Err(ApiError::new(Code::Internal, NOT_CREATED, error).into())
            }
            Err(error) => Err(ApiError::new(Code::Aborted, NOT_CREATED, error).into()),
        });
        Ok(merged(items, made))
    }

    /// A new entry that may be stored.
    fn checked(&self, wire: types::Entry) -> Result<Entry, ItemError> {
        let td = &self.0.parts.trust_domain;
        // Few entries repeat anything. Only those are copied, to be checked a second time without the repetitions.
        let spare = has_repetitions(&wire).then(|| without_repetitions(wire.clone()));
        let repeated = match check::new(wire, td) {
            Ok(entry) => return Ok(entry),
            Err(Refused::Malformed(error)) => return Err(error.into()),
            Err(Refused::Repeated(error)) => error,
        };
        // SPIRE looks for a similar entry before it finds the repetition, so that error goes first.
        let existing = spare
            .and_then(|wire| check::new(wire, td).ok())
            .and_then(|entry| self.0.parts.index.similar_entry(&entry));
        Err(match existing {
            Some(existing) => ItemError::similar(existing.value.clone()),
            None => repeated.into(),
        })
    }

    async fn update(
        &self,
        entries: Vec<types::Entry>,
        mask: Option<&types::EntryMask>,
    ) -> Result<Vec<Item>, ApiError> {
        let parts = &self.0.parts;
        let td = &parts.trust_domain;
        let mut items: Vec<Option<Item>> = Vec::with_capacity(entries.len());
        let (mut ids, mut updates) = (Vec::new(), Vec::new());
        for wire in entries {
            let id = EntryId::new(&wire.id);
            let failed = match (check::update(wire, mask, td), id) {
                (Err(error), _) => Some(error),
                // No entry can have such an ID.
                (Ok(_), Err(_)) => Some(ApiError::not_found(NOT_UPDATED)),
                (Ok(update), Ok(id)) => {
                    ids.push(id);
                    updates.push(update);
                    None
                }
            };
            items.push(failed.map(|error| Err(error.into())));
        }
        let change = |i: usize, old: &Entry| match updates.get(i) {
            Some(update) => check::applied(update, old),
            None => Err(ApiError::not_found(NOT_UPDATED)),
        };
        let changed = parts
            .store
            .entries_update(&ids, change)
            .await
            .map_err(|e| ApiError::store(NOT_UPDATED, &e))?;
        let changed = parts.index.visible(changed).await?;
        let changed = changed.into_iter().map(|result| match result {
            Ok(record) => Ok(Box::new(record.value)),
            Err(UpdateError::Missing) => Err(ApiError::not_found(NOT_UPDATED).into()),
            Err(UpdateError::Refused(error)) => Err(error.into()),
            Err(error @ UpdateError::BundleMissing(_)) => {
                Err(ApiError::new(Code::Internal, NOT_UPDATED, error).into())
            }
            Err(error) => Err(ApiError::new(Code::Aborted, NOT_UPDATED, error).into()),
        });
        Ok(merged(items, changed))
    }

    async fn delete(&self, ids: &[String]) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let parts = &self.0.parts;
        let parsed: Vec<Option<EntryId>> = ids.iter().map(|id| EntryId::new(id).ok()).collect();
        let known: Vec<EntryId> = parsed.iter().flatten().cloned().collect();
        let gone = parts
            .store
            .entries_delete(&known)
            .await
            .map_err(|e| ApiError::store("failed to delete entry", &e))?;
        let mut gone = parts.index.visible(gone).await?.into_iter();
        Ok(ids
            .iter()
            .zip(parsed)
            .map(|(id, parsed)| match parsed {
                _ if id.is_empty() => Err(ApiError::invalid("missing entry ID")),
                None => Err(ApiError::not_found(NOT_FOUND)),
                Some(_) => match gone.next() {
                    Some(Ok(_)) => Ok(()),
                    _ => Err(ApiError::not_found(NOT_FOUND)),
                },
            })
            .collect())
    }
}

#[tonic::async_trait]
impl wire::entry_server::Entry for EntryService {
    type SyncAuthorizedEntriesStream =
        ReceiverStream<Result<wire::SyncAuthorizedEntriesResponse, Status>>;

    async fn count_entries(
        &self,
        request: Request<wire::CountEntriesRequest>,
    ) -> Result<Response<wire::CountEntriesResponse>, Status> {
        let wire::CountEntriesRequest { filter } = request.into_inner();
        let parts = &self.0.parts;
        let filter = filter::entries(filter, &parts.trust_domain)?;
        let count = count(parts.index.count_entries(&filter));
        Ok(Response::new(wire::CountEntriesResponse { count }))
    }

    async fn list_entries(
        &self,
        request: Request<wire::ListEntriesRequest>,
    ) -> Result<Response<wire::ListEntriesResponse>, Status> {
        let wire::ListEntriesRequest {
            filter,
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let parts = &self.0.parts;
        let filter = filter::entries(filter.map(Into::into), &parts.trust_domain)?;
        let page = paging::requested(page_size, &page_token, "failed to list entries")?;
        let records = parts.index.entries(&filter, page);
        let next_page_token = paging::next(page, records.last().map(|record| record.created));
        let entries = records
            .iter()
            .map(|record| masked((&record.value).into(), output_mask.as_ref()))
            .collect();
        Ok(Response::new(wire::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn get_entry(
        &self,
        request: Request<wire::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let wire::GetEntryRequest { id, output_mask } = request.into_inner();
        if id.is_empty() {
            return Err(ApiError::invalid("missing ID").into());
        }
        let entry = self.0.parts.index.entry(&id);
        let entry = entry.ok_or_else(|| ApiError::not_found(NOT_FOUND))?;
        Ok(Response::new(masked(
            (&entry.value).into(),
            output_mask.as_ref(),
        )))
    }

    async fn batch_create_entry(
        &self,
        request: Request<wire::BatchCreateEntryRequest>,
    ) -> Result<Response<wire::BatchCreateEntryResponse>, Status> {
        let note = Note::of(request.extensions());
        let wire::BatchCreateEntryRequest {
            entries,
            output_mask,
        } = request.into_inner();
        check_batch(entries.len())?;
        let results = self
            .create(entries)
            .await?
            .into_iter()
            .map(|item| {
                let (status, entry) = answered(item, output_mask.as_ref(), &note);
                wire::batch_create_entry_response::Result { status, entry }
            })
            .collect();
        Ok(Response::new(wire::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<wire::BatchUpdateEntryRequest>,
    ) -> Result<Response<wire::BatchUpdateEntryResponse>, Status> {
        let note = Note::of(request.extensions());
        let wire::BatchUpdateEntryRequest {
            entries,
            input_mask,
            output_mask,
        } = request.into_inner();
        check_batch(entries.len())?;
        let results = self
            .update(entries, input_mask.as_ref())
            .await?
            .into_iter()
            .map(|item| {
                let (status, entry) = answered(item, output_mask.as_ref(), &note);
                wire::batch_update_entry_response::Result { status, entry }
            })
            .collect();
        Ok(Response::new(wire::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<wire::BatchDeleteEntryRequest>,
    ) -> Result<Response<wire::BatchDeleteEntryResponse>, Status> {
        let note = Note::of(request.extensions());
        let wire::BatchDeleteEntryRequest { ids } = request.into_inner();
        check_batch(ids.len())?;
        let outcomes = self.delete(&ids).await?;
        let results = ids
            .into_iter()
            .zip(outcomes)
            .map(|(id, outcome)| {
                let status = Some(outcome.map_or_else(ApiError::item, |()| status::ok()));
                note.item(&id, status.as_ref());
                wire::batch_delete_entry_response::Result { status, id }
            })
            .collect();
        Ok(Response::new(wire::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<wire::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<wire::GetAuthorizedEntriesResponse>, Status> {
        let agent = Context::agent(&request)?;
        let wire::GetAuthorizedEntriesRequest { output_mask } = request.into_inner();
        let records = self.0.parts.index.authorized_entries(&agent);
        let entries = records
            .iter()
            .map(|record| masked((&record.value).into(), output_mask.as_ref()))
            .collect();
        Ok(Response::new(wire::GetAuthorizedEntriesResponse {
            entries,
        }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<wire::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let agent = Context::agent(&request)?;
        let place = self.0.syncs.enter(agent)?;
        Ok(Response::new(sync::start(
            Arc::clone(&self.0),
            place,
            request.into_inner(),
        )))
    }
}

const SIMILAR: &str = "similar entry already exists";

/// The status and entry of an item's result, also noted for the audit log.
fn answered(
    item: Item,
    mask: Option<&types::EntryMask>,
    note: &Note,
) -> (Option<types::Status>, Option<types::Entry>) {
    let (status, entry) = match item {
        Ok(entry) => (status::ok(), Some(entry)),
        Err(ItemError { error, existing }) => (error.item(), existing),
    };
    let status = Some(status);
    let entry = entry.map(|entry| masked((&*entry).into(), mask));
    let id = entry.as_ref().map_or("", |entry| &entry.id);
    note.item(id, status.as_ref());
    (status, entry)
}

/// All items in the order of the request: those that were refused at once, and the store's results in the gaps.
fn merged(items: Vec<Option<Item>>, mut stored: impl Iterator<Item = Item>) -> Vec<Item> {
    let missing = || {
        // The store answers every item. Should it not, the others keep their places.
        Err(ApiError::plain(Code::Internal, "the store did not answer for this item").into())
    };
    items
        .into_iter()
        .map(|item| item.or_else(|| stored.next()).unwrap_or_else(missing))
        .collect()
}

/// Whether a selector or a DNS name comes twice.
fn has_repetitions(entry: &types::Entry) -> bool {
    let mut selectors = HashSet::new();
    let mut names = HashSet::new();
    !entry
        .selectors
        .iter()
        .all(|s| selectors.insert((&s.r#type, &s.value)))
        || !entry.dns_names.iter().all(|name| names.insert(name))
}

fn without_repetitions(entry: types::Entry) -> types::Entry {
    let mut seen = HashSet::new();
    let mut selectors = entry.selectors;
    selectors.retain(|s| seen.insert((s.r#type.clone(), s.value.clone())));
    // DNS names have no part in what makes entries alike.
    types::Entry {
        selectors,
        dns_names: Vec::new(),
        ..entry
    }
}
