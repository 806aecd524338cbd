//! Entries: SyncAuthorizedEntries in both of its forms.

use std::pin::Pin;

use countersign_proto::spire::api::server::entry::v1::{self, entry_server};
use countersign_proto::spire::api::types;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, not_here};

type Page = v1::SyncAuthorizedEntriesResponse;

impl Shared {
    fn first_pages(&self) -> (Vec<Page>, bool) {
        let state = self.state();
        if state.entries.len() <= state.page_size {
            let entries = state.entries.values().cloned().collect();
            return (
                vec![Page {
                    entries,
                    ..Page::default()
                }],
                false,
            );
        }
        let all: Vec<_> = state.entries.values().collect();
        let pages = all.chunks(state.page_size);
        let count = pages.len();
        let page = |(index, chunk): (usize, &[&types::Entry])| Page {
            entry_revisions: chunk
                .iter()
                .map(|e| v1::sync_authorized_entries_response::EntryRevision {
                    id: e.id.clone(),
                    revision_number: e.revision_number,
                    created_at: e.created_at,
                })
                .collect(),
            entries: vec![],
            more: index + 1 < count,
        };
        (pages.enumerate().map(page).collect(), true)
    }

    fn answer(&self, ids: &[String]) -> Vec<Page> {
        let mut state = self.state();
        state.fetched.push(ids.to_vec());
        let found: Vec<_> = ids
            .iter()
            .filter_map(|id| state.entries.get(id).cloned())
            .collect();
        let mut pages: Vec<Page> = found
            .chunks(state.page_size)
            .map(|chunk| Page {
                entries: chunk.to_vec(),
                more: true,
                ..Page::default()
            })
            .collect();
        if pages.is_empty() {
            pages.push(Page::default());
        }
        pages.last_mut().unwrap().more = false;
        pages
    }
}

#[tonic::async_trait]
impl entry_server::Entry for Shared {
    type SyncAuthorizedEntriesStream = Pin<Box<dyn Stream<Item = Result<Page, Status>> + Send>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<v1::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        // A fault that a test asked for comes first: it leaves the server as if the call had never come.
        self.called("SyncAuthorizedEntries")?;
        self.authorize(&request)?;
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap();
        assert!(
            first.ids.is_empty()
                && first
                    .output_mask
                    .is_some_and(|m| m.revision_number && !m.parent_id)
        );
        let (pages, more) = self.first_pages();
        let (send, receive) = mpsc::channel(1);
        let shared = self.clone();
        tokio::spawn(async move {
            for page in pages {
                let _ = send.send(Ok(page)).await;
            }
            while let (true, Ok(Some(request))) = (more, requests.message().await) {
                for page in shared.answer(&request.ids) {
                    let _ = send.send(Ok(page)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn count_entries(
        &self,
        _: Request<v1::CountEntriesRequest>,
    ) -> Result<Response<v1::CountEntriesResponse>, Status> {
        not_here()
    }

    async fn list_entries(
        &self,
        _: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        not_here()
    }

    async fn get_entry(
        &self,
        _: Request<v1::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        not_here()
    }

    async fn batch_create_entry(
        &self,
        _: Request<v1::BatchCreateEntryRequest>,
    ) -> Result<Response<v1::BatchCreateEntryResponse>, Status> {
        not_here()
    }

    async fn batch_update_entry(
        &self,
        _: Request<v1::BatchUpdateEntryRequest>,
    ) -> Result<Response<v1::BatchUpdateEntryResponse>, Status> {
        not_here()
    }

    async fn batch_delete_entry(
        &self,
        _: Request<v1::BatchDeleteEntryRequest>,
    ) -> Result<Response<v1::BatchDeleteEntryResponse>, Status> {
        not_here()
    }

    async fn get_authorized_entries(
        &self,
        _: Request<v1::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<v1::GetAuthorizedEntriesResponse>, Status> {
        not_here()
    }
}
