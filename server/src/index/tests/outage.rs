//! What the index does while its store fails.

use countersign_store::backend::flaky::{Fault, Flaky};

use super::*;

async fn over(flaky: &Flaky) -> (Store, Index) {
    let store = Store::new(Arc::new(flaky.clone()));
    let index = Index::load(store.clone()).await.unwrap();
    tokio::spawn(index.follow());
    (store, index)
}

#[tokio::test(start_paused = true)]
async fn it_answers_from_memory_meanwhile_and_catches_up() {
    let flaky = Flaky::new();
    let (store, index) = over(&flaky).await;
    create(&store, &index, &[entry("a", "/a", "/p", &[1])]).await;
    flaky.set(Fault::Changes);
    let made = store
        .entries_create(&[entry("b", "/b", "/p", &[1])])
        .await
        .unwrap();
    let late = index.visible(made.clone()).await;
    assert_eq!(late.map(drop), Err(Behind::Late));
    assert!(index.entry("a").is_some() && index.entry("b").is_none());
    flaky.set(Fault::None);
    assert!(index.visible(made).await.unwrap()[0].is_ok());
    assert!(index.entry("b").is_some());
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_made_twice() {
    let flaky = Flaky::new();
    let (store, index) = over(&flaky).await;
    flaky.set(Fault::Answers);
    let wanted = [entry("a", "/a", "/p", &[1])];
    store.entries_create(&wanted).await.unwrap_err();
    flaky.set(Fault::None);
    let head = *store.head().borrow();
    index.visible(Pending::new((), head)).await.unwrap();
    assert!(index.entry("a").is_some());
    let again = store.entries_create(&wanted).await.unwrap();
    let again = index.visible(again).await.unwrap().remove(0);
    assert!(matches!(
        again,
        Err(countersign_store::EntryExists::Similar(_))
    ));
}
