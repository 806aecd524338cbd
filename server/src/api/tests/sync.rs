//! The sync of a node agent's entries.

use countersign_proto::spire::api::server::entry::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;
use crate::limits;

const AGENT: &str = "/spire/agent/x509pop/a";

struct Sync {
    say: mpsc::Sender<wire::SyncAuthorizedEntriesRequest>,
    hear: Streaming<wire::SyncAuthorizedEntriesResponse>,
}

impl Sync {
    async fn open(caller: &TestCaller, first: wire::SyncAuthorizedEntriesRequest) -> Self {
        let (say, said) = mpsc::channel(4);
        say.send(first).await.unwrap();
        let answers = caller
            .entries()
            .sync_authorized_entries(ReceiverStream::new(said))
            .await;
        Self {
            say,
            hear: answers.unwrap().into_inner(),
        }
    }

    async fn page(&mut self) -> Option<wire::SyncAuthorizedEntriesResponse> {
        self.hear.message().await.unwrap()
    }

    async fn ask(&self, ids: Vec<String>) {
        let request = wire::SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids,
        };
        self.say.send(request).await.unwrap();
    }
}

fn first() -> wire::SyncAuthorizedEntriesRequest {
    wire::SyncAuthorizedEntriesRequest::default()
}

async fn fill(fixture: &Fixture, count: usize) -> Vec<types::Entry> {
    let entries: Vec<types::Entry> = (0..count)
        .map(|i| entry(&format!("/w/{i}"), AGENT))
        .collect();
    let mut made = Vec::new();
    for part in entries.chunks(1_000) {
        made.extend(create(&fixture.local(), part.to_vec()).await);
    }
    made
}

#[tokio::test]
async fn few_entries_come_in_one_message() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &["x:1", "x:2"]).await;
    let mut none = Sync::open(&caller, first()).await;
    assert_eq!(
        none.page().await,
        Some(wire::SyncAuthorizedEntriesResponse::default())
    );
    assert_eq!(none.page().await, None);

    let alias = types::Entry {
        selectors: vec![types::Selector {
            r#type: "x".into(),
            value: "1".into(),
        }],
        ..entry("/alias", "/spire/server")
    };
    let made = create(
        &fixture.local(),
        vec![
            entry("/direct", AGENT),
            entry("/below", "/direct"),
            alias,
            entry("/by-alias", "/alias"),
            entry("/elsewhere", "/spire/agent/x509pop/b"),
        ],
    )
    .await;
    let mut sync = Sync::open(&caller, first()).await;
    let page = sync.page().await.unwrap();
    let mut got: Vec<&str> = page.entries.iter().map(|e| e.id.as_str()).collect();
    got.sort_unstable();
    let mut want: Vec<&str> = [0, 1, 3]
        .iter()
        .map(|i: &usize| made[*i].id.as_str())
        .collect();
    want.sort_unstable();
    assert_eq!(got, want, "aliases and other agents' entries are not sent");
    assert!(page.entry_revisions.is_empty() && !page.more);
    assert_eq!(sync.page().await, None);
    let all = wire::GetAuthorizedEntriesRequest {
        output_mask: Some(types::EntryMask {
            spiffe_id: true,
            ..Default::default()
        }),
    };
    let all = caller
        .entries()
        .get_authorized_entries(all)
        .await
        .unwrap()
        .into_inner()
        .entries;
    assert_eq!(all.len(), 3);
    assert!(
        all.iter()
            .all(|e| e.spiffe_id.is_some() && e.selectors.is_empty())
    );
}

#[tokio::test]
async fn exactly_a_page_still_comes_at_once() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    fill(&fixture, 500).await;
    let mut sync = Sync::open(&caller, first()).await;
    assert_eq!(sync.page().await.unwrap().entries.len(), 500);
    assert_eq!(sync.page().await, None);
}

#[tokio::test]
async fn many_entries_come_as_revisions_and_then_as_asked() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    let made = fill(&fixture, 1_100).await;
    let mask = types::EntryMask {
        revision_number: true,
        hint: true,
        ..Default::default()
    };
    let asked = wire::SyncAuthorizedEntriesRequest {
        output_mask: Some(mask),
        ids: vec![],
    };
    let mut sync = Sync::open(&caller, asked).await;
    let mut sizes = Vec::new();
    let mut revisions = Vec::new();
    loop {
        let page = sync.page().await.unwrap();
        assert!(page.entries.is_empty());
        sizes.push(page.entry_revisions.len());
        revisions.extend(page.entry_revisions);
        if !page.more {
            break;
        }
    }
    assert_eq!(sizes, [500, 500, 100]);
    assert!(revisions.iter().all(|r| r.revision_number == 0));
    assert!(
        revisions
            .iter()
            .all(|r| r.created_at == i64::try_from(START).unwrap())
    );

    // Repeats and strangers change nothing.
    let mut ids: Vec<String> = made.iter().take(700).map(|e| e.id.clone()).collect();
    ids.push(ids[0].clone());
    ids.push("unknown".into());
    sync.ask(ids).await;
    let one = sync.page().await.unwrap();
    assert_eq!((one.entries.len(), one.more), (500, true));
    let two = sync.page().await.unwrap();
    assert_eq!((two.entries.len(), two.more), (200, false));
    assert!(two.entry_revisions.is_empty());
    assert!(
        one.entries.iter().all(|e| e.spiffe_id.is_none()),
        "the first mask holds"
    );

    sync.ask(vec!["unknown".into()]).await;
    assert_eq!(
        sync.page().await,
        Some(wire::SyncAuthorizedEntriesResponse::default())
    );
    let Sync { say, mut hear } = sync;
    drop(say);
    assert_eq!(
        hear.message().await.unwrap(),
        None,
        "an agent that has finished is done"
    );
}

#[tokio::test]
async fn the_first_request_is_checked() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    let told = async |request| {
        let mut sync = Sync::open(&caller, request).await;
        let status = sync.hear.message().await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let ids = wire::SyncAuthorizedEntriesRequest {
        output_mask: None,
        ids: vec!["x".into()],
    };
    let want = "specifying IDs on initial request is not supported";
    assert_eq!(told(ids).await, (Code::InvalidArgument, want.into()));
    let mask = wire::SyncAuthorizedEntriesRequest {
        output_mask: Some(types::EntryMask::default()),
        ids: vec![],
    };
    let want = "revision number cannot be masked";
    assert_eq!(told(mask).await, (Code::InvalidArgument, want.into()));
}

#[tokio::test]
async fn one_agent_can_not_hold_any_number_of_syncs_open() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    fill(&fixture, limits::SYNC_PAGE + 1).await;
    let mut open = Vec::new();
    for _ in 0..limits::MAX_SYNCS_PER_AGENT {
        let mut sync = Sync::open(&caller, first()).await;
        assert!(sync.page().await.is_some());
        open.push(sync);
    }
    let (_say, said) = mpsc::channel(1);
    let refused = caller
        .entries()
        .sync_authorized_entries(ReceiverStream::new(said))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Another agent is not concerned.
    let other = fixture.agent("b", &[]).await;
    assert!(Sync::open(&other, first()).await.page().await.is_some());
    // A place is free as soon as a sync is over.
    let Sync { say, mut hear } = open.remove(0);
    drop(say);
    while hear.message().await.unwrap().is_some() {}
    let mut again = Sync::open(&caller, first()).await;
    assert!(again.page().await.is_some());
}
