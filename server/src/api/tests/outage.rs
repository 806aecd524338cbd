//! What callers see while the store fails, and afterwards.

use countersign_proto::spire::api::server::entry::v1 as wire;
use countersign_proto::spire::api::server::svid::v1 as svid;
use countersign_store::Pending;
use countersign_store::backend::flaky::{Fault, Flaky};

use super::*;

async fn create_code(fixture: &Fixture, path: &str) -> Code {
    let request = wire::BatchCreateEntryRequest {
        entries: vec![entry(path, "/spire/agent/x509pop/a")],
        output_mask: None,
    };
    match fixture.local().entries().batch_create_entry(request).await {
        Ok(answer) => code(answer.into_inner().results[0].status.as_ref().unwrap()),
        Err(status) => status.code(),
    }
}

async fn list(fixture: &Fixture) -> Vec<types::Entry> {
    let mut client = fixture.local().entries();
    let answer = client.list_entries(wire::ListEntriesRequest::default());
    answer.await.unwrap().into_inner().entries
}

#[tokio::test]
async fn writes_are_refused_while_reads_and_signatures_go_on() {
    let flaky = Flaky::new();
    let fixture = Fixture::over(Store::new(Arc::new(flaky.clone())), &[]).await;
    let agent = fixture.agent("a", &[]).await;
    let made = create(
        &fixture.local(),
        vec![entry("/w", "/spire/agent/x509pop/a")],
    )
    .await;
    flaky.set(Fault::Everything);
    assert_eq!(create_code(&fixture, "/new").await, Code::Unavailable);
    let update = wire::BatchUpdateEntryRequest {
        entries: made.clone(),
        ..Default::default()
    };
    let refused = fixture.local().entries().batch_update_entry(update).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let delete = wire::BatchDeleteEntryRequest {
        ids: vec![made[0].id.clone()],
    };
    let refused = fixture.local().entries().batch_delete_entry(delete).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    assert_eq!(list(&fixture).await, made);
    let sign = svid::BatchNewX509svidRequest {
        params: vec![svid::NewX509svidParams {
            entry_id: made[0].id.clone(),
            csr: csr(),
        }],
    };
    let signed = agent
        .svids()
        .batch_new_x509svid(sign)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(signed.results[0].status, Some(status::ok()));

    flaky.set(Fault::None);
    assert_eq!(list(&fixture).await, made, "nothing half-done stayed");
    assert_eq!(create_code(&fixture, "/new").await, Code::Ok);
    assert_eq!(list(&fixture).await.len(), 2);
}

#[tokio::test]
async fn an_entry_whose_answer_was_lost_is_whole() {
    let flaky = Flaky::new();
    let fixture = Fixture::over(Store::new(Arc::new(flaky.clone())), &[]).await;
    flaky.set(Fault::Answers);
    assert_eq!(create_code(&fixture, "/w").await, Code::Unavailable);
    flaky.set(Fault::None);
    let head = Pending::new((), *fixture.store.head().borrow());
    fixture.index.visible(head).await.unwrap();
    let all = list(&fixture).await;
    assert_eq!(all.len(), 1);
    assert_eq!(create_code(&fixture, "/w").await, Code::AlreadyExists);
    let delete = wire::BatchDeleteEntryRequest {
        ids: vec![all[0].id.clone()],
    };
    fixture
        .local()
        .entries()
        .batch_delete_entry(delete)
        .await
        .unwrap();
    assert_eq!(
        create_code(&fixture, "/w").await,
        Code::Ok,
        "its traces are gone too"
    );
}
