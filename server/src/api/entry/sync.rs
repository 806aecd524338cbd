//! The sync of a node agent's entries: the entries themselves if they fit into one message, otherwise their revisions,
//! and then the entries that the agent requests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::SpiffeId;
use countersign_proto::convert::entry::masked;
use countersign_proto::spire::api::server::entry::v1 as wire;
use countersign_proto::spire::api::server::entry::v1::sync_authorized_entries_response::EntryRevision;
use countersign_proto::spire::api::types;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::super::Context;
use super::super::status::ApiError;
use crate::index::EntryRecord;
use crate::limits::{MAX_SYNC_IDS, MAX_SYNCS_PER_AGENT, SYNC_IDLE, SYNC_PAGE};

type SyncAnswer = Result<wire::SyncAuthorizedEntriesResponse, Status>;

/// Counts the open syncs of each node agent: one of many entries takes some memory for as long as it lasts.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Syncs(Arc<Mutex<HashMap<SpiffeId, usize>>>);

/// A lease for one sync, returned when it is dropped.
pub(super) struct Place {
    syncs: Syncs,
    agent: SpiffeId,
}

impl Syncs {
    /// A lease for one more sync of this agent.
    pub(super) fn enter(&self, agent: SpiffeId) -> Result<Place, ApiError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = counts.entry(agent.clone()).or_default();
        if *open >= MAX_SYNCS_PER_AGENT {
            let message = format!(
                "this agent has {MAX_SYNCS_PER_AGENT} syncs open already, and may not have more"
            );
            return Err(ApiError::plain(Code::ResourceExhausted, message));
        }
        *open += 1;
        drop(counts);
        Ok(Place {
            syncs: self.clone(),
            agent,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.syncs.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counts.get_mut(&self.agent) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.remove(&self.agent);
            }
        }
    }
}

/// Why a sync ended early.
enum Ended {
    /// The agent closed its side, or disconnected: not an error.
    Left,
    /// Ends with this status.
    Failed(Status),
}

/// Serves one sync, in a task that ends with the stream.
pub(super) fn start(
    context: Arc<Context>,
    place: Place,
    incoming: Streaming<wire::SyncAuthorizedEntriesRequest>,
) -> ReceiverStream<SyncAnswer> {
    // One page may be ready while the one before it is being sent.
    let (outgoing, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        let sync = serve(&context, &place.agent, incoming, &outgoing);
        let ended = tokio::select! {
            ended = sync => ended,
            () = outgoing.closed() => Ok(()),
        };
        if let Err(Ended::Failed(status)) = ended {
            // The agent may have gone.
            let _ = outgoing.send(Err(status)).await;
        }
    });
    ReceiverStream::new(answers)
}

async fn serve(
    context: &Context,
    agent: &SpiffeId,
    mut incoming: Streaming<wire::SyncAuthorizedEntriesRequest>,
    outgoing: &mpsc::Sender<SyncAnswer>,
) -> Result<(), Ended> {
    let wire::SyncAuthorizedEntriesRequest { output_mask, ids } = next(&mut incoming).await?;
    check_first(output_mask.as_ref(), &ids)?;
    let mask = output_mask.as_ref();
    let entries = context.parts.index.authorized_entries(agent);
    if entries.len() <= SYNC_PAGE {
        let entries = entries.iter().map(|record| full(record, mask)).collect();
        let whole = wire::SyncAuthorizedEntriesResponse {
            entries,
            ..Default::default()
        };
        return send(outgoing, whole).await;
    }
    let mut pages = entries.chunks(SYNC_PAGE).peekable();
    while let Some(page) = pages.next() {
        let revisions = wire::SyncAuthorizedEntriesResponse {
            entry_revisions: page.iter().map(revision).collect(),
            entries: Vec::new(),
            more: pages.peek().is_some(),
        };
        send(outgoing, revisions).await?;
    }
    let by_id: HashMap<&str, &EntryRecord> = entries
        .iter()
        .map(|record| (record.value.id.as_str(), record))
        .collect();
    loop {
        let wire::SyncAuthorizedEntriesRequest {
            output_mask: _,
            ids,
        } = next(&mut incoming).await?;
        check_ids(&ids)?;
        // Each entry is sent once per request, however often it is named.
        let mut named = HashSet::new();
        let found: Vec<&EntryRecord> = ids
            .iter()
            .filter_map(|id| by_id.get(id.as_str()).copied())
            .filter(|record| named.insert(record.value.id.as_str()))
            .collect();
        if found.is_empty() {
            send(outgoing, wire::SyncAuthorizedEntriesResponse::default()).await?;
        }
        let mut pages = found.chunks(SYNC_PAGE).peekable();
        while let Some(page) = pages.next() {
            let answer = wire::SyncAuthorizedEntriesResponse {
                entry_revisions: Vec::new(),
                entries: page.iter().map(|record| full(record, mask)).collect(),
                more: pages.peek().is_some(),
            };
            send(outgoing, answer).await?;
        }
    }
}

fn check_first(mask: Option<&types::EntryMask>, ids: &[String]) -> Result<(), Ended> {
    let refuse = |message: &str| Err(Ended::Failed(ApiError::invalid(message).into()));
    if !ids.is_empty() {
        return refuse("specifying IDs on initial request is not supported");
    }
    if mask.is_some_and(|mask| !mask.revision_number) {
        return refuse("revision number cannot be masked");
    }
    Ok(())
}

fn check_ids(ids: &[String]) -> Result<(), Ended> {
    if ids.len() > MAX_SYNC_IDS {
        let message = format!("the request names more than {MAX_SYNC_IDS} entries");
        return Err(Ended::Failed(ApiError::invalid(message).into()));
    }
    Ok(())
}

/// The agent's next message, if it comes in time.
async fn next(
    incoming: &mut Streaming<wire::SyncAuthorizedEntriesRequest>,
) -> Result<wire::SyncAuthorizedEntriesRequest, Ended> {
    match tokio::time::timeout(SYNC_IDLE, incoming.message()).await {
        Ok(Ok(Some(request))) => Ok(request),
        // A stream that breaks is an agent that left.
        Ok(Ok(None) | Err(_)) => Err(Ended::Left),
        Err(_) => Err(Ended::Failed(Status::deadline_exceeded(format!(
            "no request came for {} seconds",
            SYNC_IDLE.as_secs()
        )))),
    }
}

async fn send(
    outgoing: &mpsc::Sender<SyncAnswer>,
    answer: wire::SyncAuthorizedEntriesResponse,
) -> Result<(), Ended> {
    outgoing.send(Ok(answer)).await.map_err(|_| Ended::Left)
}

fn full(record: &EntryRecord, mask: Option<&types::EntryMask>) -> types::Entry {
    masked((&record.value).into(), mask)
}

fn revision(record: &EntryRecord) -> EntryRevision {
    EntryRevision {
        id: record.value.id.to_string(),
        revision_number: record.value.revision_number,
        created_at: record.value.created_at.as_i64(),
    }
}
