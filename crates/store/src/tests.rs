//! The store's domain methods, over every backend.

use std::time::Duration;

use countersign_identity::entry::AdditionalAttributes;
use countersign_identity::node::Credential;
use countersign_identity::{Selector, SelectorSet, UnixTime};
use countersign_proto::store::v1;

use super::backend::conformance::for_every_backend;
use super::*;

for_every_backend!(
    an_entry_is_made_once,
    an_entry_names_only_bundles_that_are_there,
    a_supplied_id_is_taken_once,
    updates_count_revisions_and_keep_what_is_the_stores,
    an_entry_that_comes_twice_in_a_batch_is_changed_twice,
    entries_alike_by_update_are_all_remembered,
    entries_are_deleted_once,
    a_token_is_taken_by_one_of_fifty,
    an_expired_token_is_gone_once_it_was_tried,
    tokens_that_nobody_used_are_pruned,
    a_token_comes_with_its_alias_entry,
    a_banned_node_stays_banned_until_it_is_deleted,
    a_renewed_svid_counts_from_its_first_use,
    a_node_is_attested_again_without_losing_its_place,
    a_journal_and_its_bundle_are_written_together,
    an_edit_is_made_again_when_another_was_faster,
    the_feed_has_each_object_once_as_it_is,
);

type Tested = Arc<dyn Backend>;

fn td() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

fn id(path: &str) -> SpiffeId {
    td().id_with_path(path).unwrap()
}

fn selectors(texts: &[&str]) -> SelectorSet {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

fn entry(name: &str, path: &str) -> Entry {
    Entry {
        id: EntryId::new(name).unwrap(),
        spiffe_id: id(path),
        parent_id: id("/spire/agent/join_token/t"),
        selectors: selectors(&["unix:uid:1"]),
        x509_svid_ttl: Some(Duration::from_secs(60)),
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: Some(UnixTime::from_secs(9)),
        dns_names: Vec::new(),
        revision_number: 0,
        created_at: UnixTime::from_secs(5),
        hint: "hint".into(),
        attributes: AdditionalAttributes::default(),
    }
}

fn node(name: &str, serial: &str) -> Node {
    Node {
        id: id(&format!("/spire/agent/x509pop/{name}")),
        attestation_type: "x509pop".into(),
        current: Some(credential(serial)),
        pending: None,
        can_reattest: true,
        selectors: selectors(&["x509pop:a:b"]),
        agent_version: String::new(),
    }
}

fn credential(serial: &str) -> Credential {
    Credential {
        serial: serial.into(),
        expires_at: UnixTime::from_secs(100),
    }
}

async fn all(store: &Store) -> Vec<Entry> {
    store
        .entries_page(None)
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.value)
        .collect()
}

async fn an_entry_is_made_once(backend: Tested) {
    let store = Store::new(backend);
    let first = entry("one", "/a");
    let alike = Entry {
        hint: "other".into(),
        admin: true,
        ..entry("two", "/a")
    };
    let results = store
        .entries_create(&[first.clone(), alike, entry("three", "/b")])
        .await
        .unwrap()
        .unseen();
    let made = results[0].clone().unwrap();
    assert_eq!(made.value, first);
    let similar = EntryExists::Similar(Box::new(made));
    assert_eq!(results[1], Err(similar));
    assert!(results[2].is_ok());
    assert_eq!(all(&store).await, [first, entry("three", "/b")]);
}

async fn an_entry_names_only_bundles_that_are_there(backend: Tested) {
    let store = Store::new(backend);
    let other = TrustDomain::new("other").unwrap();
    let federated = Entry {
        federates_with: vec![other.clone()],
        ..entry("one", "/a")
    };
    let results = store
        .entries_create(std::slice::from_ref(&federated))
        .await
        .unwrap()
        .unseen();
    assert_eq!(results[0], Err(EntryExists::BundleMissing(other.clone())));
    store
        .entries_create(&[entry("one", "/a")])
        .await
        .unwrap()
        .unseen()[0]
        .as_ref()
        .unwrap();
    let ids = [EntryId::new("one").unwrap()];
    let update = || store.entries_update(&ids, |_, _| Ok::<_, StoreError>(federated.clone()));
    assert_eq!(
        update().await.unwrap().unseen()[0],
        Err(UpdateError::BundleMissing(other.clone()))
    );
    store
        .bundle_append(&other, &[], &[])
        .await
        .unwrap()
        .unseen();
    assert!(update().await.unwrap().unseen()[0].is_ok());
}

async fn a_supplied_id_is_taken_once(backend: Tested) {
    let store = Store::new(backend);
    let results = store
        .entries_create(&[entry("one", "/a"), entry("one", "/b")])
        .await
        .unwrap()
        .unseen();
    assert!(results[0].is_ok());
    assert_eq!(results[1], Err(EntryExists::Id));
}

async fn updates_count_revisions_and_keep_what_is_the_stores(backend: Tested) {
    let store = Store::new(backend);
    let made = store
        .entries_create(&[entry("one", "/a")])
        .await
        .unwrap()
        .unseen()[0]
        .clone()
        .unwrap();
    let ids = [EntryId::new("one").unwrap(), EntryId::new("none").unwrap()];
    let results = store
        .entries_update(&ids, |_, old| {
            Ok::<_, StoreError>(Entry {
                hint: "new".into(),
                id: EntryId::new("stolen").unwrap(),
                created_at: UnixTime::from_secs(77),
                revision_number: 40,
                ..old.clone()
            })
        })
        .await
        .unwrap()
        .unseen();
    let want = Entry {
        hint: "new".into(),
        revision_number: 1,
        ..entry("one", "/a")
    };
    let changed = results[0].clone().unwrap();
    assert_eq!((&changed.value, changed.created), (&want, made.created));
    assert_eq!(results[1], Err(UpdateError::Missing));
    let pages = store.entries_page(None).await.unwrap();
    assert_eq!(
        pages,
        [Record {
            value: want,
            created: made.created
        }]
    );
    let refused = store
        .entries_update(&ids[..1], |_, _| Err("no"))
        .await
        .unwrap()
        .unseen();
    assert_eq!(refused[0], Err(UpdateError::Refused("no")));
}

async fn an_entry_that_comes_twice_in_a_batch_is_changed_twice(backend: Tested) {
    let store = Store::new(backend);
    store
        .entries_create(&[entry("one", "/a")])
        .await
        .unwrap()
        .unseen();
    let ids = vec![EntryId::new("one").unwrap(); 20];
    let results = store
        .entries_update(&ids, |i, old| {
            Ok::<_, StoreError>(Entry {
                hint: format!("{} {i}", old.hint),
                ..old.clone()
            })
        })
        .await
        .unwrap()
        .unseen();
    let revisions: Vec<_> = results
        .into_iter()
        .map(|r| r.unwrap().value.revision_number)
        .collect();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
    assert!(all(&store).await[0].hint.starts_with("hint 0 1 2"));
}

async fn entries_alike_by_update_are_all_remembered(backend: Tested) {
    let store = Store::new(backend);
    let names: Vec<String> = (0..12).map(|i| format!("e{i:02}")).collect();
    let entries: Vec<Entry> = names
        .iter()
        .enumerate()
        .map(|(i, name)| entry(name, &format!("/{i}")))
        .collect();
    store.entries_create(&entries).await.unwrap().unseen();
    let ids: Vec<EntryId> = entries.iter().map(|e| e.id.clone()).collect();
    // No check for likeness in an update: afterwards all are alike.
    let same = store
        .entries_update(&ids, |_, old| {
            Ok::<_, StoreError>(Entry {
                spiffe_id: id("/same"),
                ..old.clone()
            })
        })
        .await
        .unwrap()
        .unseen();
    assert!(same.iter().all(Result::is_ok));
    let again = entry("again", "/same");
    let refused = async || {
        let results = store
            .entries_create(std::slice::from_ref(&again))
            .await
            .unwrap()
            .unseen();
        matches!(results[0], Err(EntryExists::Similar(_)))
    };
    for gone in &ids {
        assert!(refused().await);
        assert!(
            store
                .entries_delete(std::slice::from_ref(gone))
                .await
                .unwrap()
                .unseen()[0]
                .is_ok()
        );
    }
    assert!(!refused().await);
    // And what an entry was before it was changed is free.
    assert!(store.entries_create(&entries[..1]).await.unwrap().unseen()[0].is_ok());
}

async fn entries_are_deleted_once(backend: Tested) {
    let store = Store::new(backend);
    store
        .entries_create(&[entry("one", "/a"), entry("two", "/b")])
        .await
        .unwrap()
        .unseen();
    let one = EntryId::new("one").unwrap();
    let two = EntryId::new("two").unwrap();
    let kept = store
        .entries_delete_if(std::slice::from_ref(&two), |e| e.spiffe_id == id("/a"))
        .await
        .unwrap()
        .unseen();
    assert_eq!(kept[0], Err(EntryMissing));
    let ids = [one.clone(), EntryId::new("none").unwrap(), one, two];
    let results = store.entries_delete(&ids).await.unwrap().unseen();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert_eq!(
        (results[1], results[2]),
        (Err(EntryMissing), Err(EntryMissing))
    );
    assert!(all(&store).await.is_empty());
    assert!(
        store
            .entries_create(&[entry("one", "/a")])
            .await
            .unwrap()
            .unseen()[0]
            .is_ok()
    );
}

async fn a_token_is_taken_by_one_of_fifty(backend: Tested) {
    let store = Store::new(backend);
    store
        .token_create("t", UnixTime::from_secs(10), None)
        .await
        .unwrap()
        .unseen();
    let again = store.token_create("t", UnixTime::from_secs(10), None).await;
    assert_eq!(again, Err(TokenExists::Exists));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        tasks.spawn(async move { store.token_take("t", UnixTime::from_secs(10)).await });
    }
    let (taken, refused): (Vec<_>, Vec<_>) =
        tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(taken.len(), 1);
    assert!(refused.iter().all(|r| *r == Err(TokenRefused::Unknown)));
}

async fn an_expired_token_is_gone_once_it_was_tried(backend: Tested) {
    let store = Store::new(backend);
    store
        .token_create("t", UnixTime::from_secs(10), None)
        .await
        .unwrap()
        .unseen();
    let late = UnixTime::from_secs(11);
    assert_eq!(
        store.token_take("t", late).await,
        Err(TokenRefused::Expired)
    );
    assert_eq!(
        store.token_take("t", late).await,
        Err(TokenRefused::Unknown)
    );
}

async fn tokens_that_nobody_used_are_pruned(backend: Tested) {
    let store = Store::new(backend);
    for (value, expires) in [("a", 5), ("b", 50), ("c", 5)] {
        store
            .token_create(value, UnixTime::from_secs(expires), None)
            .await
            .unwrap()
            .unseen();
    }
    assert_eq!(
        store.tokens_prune(UnixTime::from_secs(20)).await.unwrap(),
        2
    );
    assert_eq!(store.token_take("b", UnixTime::from_secs(20)).await, Ok(()));
}

async fn a_token_comes_with_its_alias_entry(backend: Tested) {
    let store = Store::new(backend);
    let alias = entry("alias", "/named");
    let expires = UnixTime::from_secs(10);
    store
        .token_create("t", expires, Some(&alias))
        .await
        .unwrap()
        .unseen();
    assert_eq!(all(&store).await, std::slice::from_ref(&alias));
    store.token_take("t", expires).await.unwrap();
    // The same value again: the entry that is there serves.
    store
        .token_create(
            "t",
            expires,
            Some(&Entry {
                id: EntryId::new("b").unwrap(),
                ..alias.clone()
            }),
        )
        .await
        .unwrap()
        .unseen();
    assert_eq!(all(&store).await, [alias]);
    assert_eq!(store.token_take("t", expires).await, Ok(()));
}

async fn a_banned_node_stays_banned_until_it_is_deleted(backend: Tested) {
    let store = Store::new(backend);
    let node = node("n", "1");
    assert_eq!(store.node_banned(&node.id).await, Err(NodeError::Missing));
    store.node_attested(&node).await.unwrap().unseen();
    assert!(
        store
            .node_banned(&node.id)
            .await
            .unwrap()
            .unseen()
            .is_banned()
    );
    assert_eq!(store.node_attested(&node).await, Err(NodeError::Banned));
    assert_eq!(
        store.node_renewed(&node.id, credential("2")).await,
        Err(NodeError::Banned)
    );
    let alias = Entry {
        parent_id: node.id.clone(),
        ..entry("alias", "/named")
    };
    store
        .entries_create(std::slice::from_ref(&alias))
        .await
        .unwrap()
        .unseen();
    store
        .node_deleted(&node.id, Some(&alias), &|_| true)
        .await
        .unwrap()
        .unseen();
    assert!(all(&store).await.is_empty());
    assert_eq!(
        store.node_deleted(&node.id, Some(&alias), &|_| true).await,
        Err(NodeError::Missing)
    );
    store.node_attested(&node).await.unwrap().unseen();
}

async fn a_renewed_svid_counts_from_its_first_use(backend: Tested) {
    let store = Store::new(backend);
    let node = node("n", "1");
    store.node_attested(&node).await.unwrap().unseen();
    store
        .node_renewed(&node.id, credential("2"))
        .await
        .unwrap()
        .unseen();
    store
        .node_renewed(&node.id, credential("3"))
        .await
        .unwrap()
        .unseen();
    let same = store.node_promoted(&node.id, "2").await.unwrap().unseen();
    assert_eq!(
        (same.current, same.pending),
        (Some(credential("1")), Some(credential("3")))
    );
    let promoted = store.node_promoted(&node.id, "3").await.unwrap().unseen();
    assert_eq!(
        (promoted.current, promoted.pending),
        (Some(credential("3")), None)
    );
}

async fn a_node_is_attested_again_without_losing_its_place(backend: Tested) {
    let store = Store::new(backend);
    let first = store.node_attested(&node("a", "1")).await.unwrap();
    let place = first.seq();
    let first = first.unseen();
    store.node_attested(&node("b", "1")).await.unwrap().unseen();
    store
        .node_versioned(&first.id, "1.2.3")
        .await
        .unwrap()
        .unseen();
    store
        .node_renewed(&first.id, credential("2"))
        .await
        .unwrap()
        .unseen();
    let again = Node {
        attestation_type: "other".into(),
        selectors: selectors(&["x509pop:c:d"]),
        ..node("a", "9")
    };
    store.node_attested(&again).await.unwrap().unseen();
    let nodes = store.nodes_page(None).await.unwrap();
    let want = Node {
        agent_version: "1.2.3".into(),
        selectors: selectors(&["x509pop:c:d"]),
        ..node("a", "9")
    };
    assert_eq!(
        nodes[0],
        Record {
            value: want,
            created: place
        }
    );
}

async fn a_journal_and_its_bundle_are_written_together(backend: Tested) {
    let store = Store::new(backend);
    assert_eq!(store.journal_get("s").await.unwrap(), None);
    let slot = v1::journal::X509Slot {
        key_name: "k".into(),
        ..Default::default()
    };
    let journal = v1::Journal {
        x509: vec![slot],
        jwt: vec![],
    };
    let made = store
        .journal_put("s", &journal, &td(), |_| BundleChange::Unchanged)
        .await
        .unwrap()
        .unseen();
    assert_eq!(
        made.sequence_number, 1,
        "a bundle that was not there is made"
    );
    let hint = |bundle: &mut Bundle| {
        bundle.refresh_hint = Some(Duration::from_secs(7));
        BundleChange::Changed
    };
    store
        .journal_put("s", &journal, &td(), hint)
        .await
        .unwrap()
        .unseen();
    store
        .journal_put("other", &v1::Journal::default(), &td(), |_| {
            BundleChange::Unchanged
        })
        .await
        .unwrap()
        .unseen();
    assert_eq!(store.journal_get("s").await.unwrap(), Some(journal));
    let bundle = store.bundle_get(&td()).await.unwrap().unwrap();
    assert_eq!(bundle.sequence_number, 2);
    assert_eq!(bundle.refresh_hint, Some(Duration::from_secs(7)));
}

async fn an_edit_is_made_again_when_another_was_faster(backend: Tested) {
    let store = Store::new(backend);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let store = store.clone();
        let edit = |bundle: &mut Bundle| {
            let seconds = bundle.refresh_hint.map_or(0, |hint| hint.as_secs());
            bundle.refresh_hint = Some(Duration::from_secs(seconds + 1));
            BundleChange::Changed
        };
        tasks.spawn(async move {
            store
                .journal_put("s", &v1::Journal::default(), &td(), edit)
                .await
        });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let bundle = store.bundle_get(&td()).await.unwrap().unwrap();
    assert_eq!(
        (bundle.sequence_number, bundle.refresh_hint),
        (5, Some(Duration::from_secs(5)))
    );
}

async fn the_feed_has_each_object_once_as_it_is(backend: Tested) {
    let store = Store::new(backend);
    let start = *store.head().borrow();
    store
        .entries_create(&[entry("one", "/a"), entry("two", "/b")])
        .await
        .unwrap()
        .unseen();
    store.node_attested(&node("n", "1")).await.unwrap().unseen();
    store
        .token_create("secret", UnixTime::from_secs(1), None)
        .await
        .unwrap()
        .unseen();
    let last = store
        .entries_delete(&[EntryId::new("one").unwrap()])
        .await
        .unwrap()
        .seq();
    let Feed::Changed { through, objects } = store.changed(start).await.unwrap() else {
        panic!("too old")
    };
    assert_eq!((through, objects.len()), (last, 3));
    assert!(objects.contains(&Changed::Entry(EntryId::new("one").unwrap(), None)));
    assert!(
        objects
            .iter()
            .any(|o| matches!(o, Changed::Entry(_, Some(r)) if r.value == entry("two", "/b")))
    );
    assert!(
        objects
            .iter()
            .any(|o| matches!(o, Changed::Node(_, Some(r)) if r.value == node("n", "1")))
    );
    assert!(matches!(
        store.changed(Seq::new(999)).await.unwrap(),
        Feed::TooOld
    ));
}
