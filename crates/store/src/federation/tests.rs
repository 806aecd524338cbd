//! Foreign bundles and relationships, over every backend.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::federation::{EndpointProfile, EndpointUrl};
use countersign_identity::{Entry, Selector, SpiffeId, UnixTime};

use super::*;
use crate::backend::Backend;
use crate::backend::conformance::for_every_backend;
use crate::{Changed, Feed, Record};

for_every_backend!(
    a_bundle_is_created_once_and_changed_only_if_it_is_there,
    a_bundle_that_is_set_keeps_its_place,
    a_bundle_stays_while_entries_federate_with_it,
    a_bundle_goes_with_its_entries,
    a_bundle_goes_and_its_entries_stay,
    very_many_entries_are_let_go_in_bounded_commits,
    a_relationship_is_made_once_together_with_its_bundle,
    a_relationship_is_changed_and_removed_while_its_bundle_stays,
);

type Tested = Arc<dyn Backend>;

fn other() -> TrustDomain {
    TrustDomain::new("other").unwrap()
}

fn bundle(hint: u64) -> Bundle {
    Bundle {
        refresh_hint: Some(Duration::from_secs(hint)),
        sequence_number: 7,
        ..Bundle::empty(other())
    }
}

fn relationship(url: &str) -> Relationship {
    Relationship {
        trust_domain: other(),
        url: EndpointUrl::parse(url).unwrap(),
        profile: EndpointProfile::Spiffe(SpiffeId::parse("spiffe://other/server").unwrap()),
    }
}

/// An entry that federates with `other` and, if it is there, with `third`.
fn entry(name: &str, path: &str, federates_with: &[&str]) -> Entry {
    let td = TrustDomain::new("td").unwrap();
    Entry {
        id: EntryId::new(name).unwrap(),
        spiffe_id: td.id_with_path(path).unwrap(),
        parent_id: td.id_with_path("/spire/agent/join_token/t").unwrap(),
        selectors: [Selector::parse("unix:uid:1").unwrap()]
            .into_iter()
            .collect(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: federates_with
            .iter()
            .map(|name| TrustDomain::new(name).unwrap())
            .collect(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        revision_number: 0,
        created_at: UnixTime::from_secs(5),
        hint: String::new(),
        attributes: countersign_identity::entry::AdditionalAttributes::default(),
    }
}

/// A store with the bundle, and with these entries.
async fn store_with(backend: Tested, entries: &[Entry]) -> (Store, Vec<EntryId>) {
    let store = Store::new(backend);
    store.bundle_create(&bundle(60)).await.unwrap().unseen();
    for result in store.entries_create(entries).await.unwrap().unseen() {
        result.unwrap();
    }
    let ids = entries.iter().map(|entry| entry.id.clone()).collect();
    (store, ids)
}

async fn entries(store: &Store) -> Vec<Entry> {
    let page = store.entries_page(None).await.unwrap();
    page.into_iter().map(|record| record.value).collect()
}

async fn a_bundle_is_created_once_and_changed_only_if_it_is_there(backend: Tested) {
    let store = Store::new(backend);
    let change = |_: &Bundle| bundle(61);
    let updated = store.bundle_update(&other(), change).await;
    assert_eq!(updated, Err(BundleError::Missing));
    store.bundle_create(&bundle(60)).await.unwrap().unseen();
    let again = store.bundle_create(&bundle(61)).await;
    assert_eq!(again, Err(BundleError::Exists));
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(60)));
    store
        .bundle_update(&other(), change)
        .await
        .unwrap()
        .unseen();
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(61)));
}

async fn a_bundle_that_is_set_keeps_its_place(backend: Tested) {
    let store = Store::new(backend);
    let made = store.bundle_set(&bundle(60)).await.unwrap().seq();
    store.bundle_set(&bundle(61)).await.unwrap().unseen();
    let page = store.bundles_page(None).await.unwrap();
    assert_eq!((page[0].created, &page[0].value), (made, &bundle(61)));
}

async fn a_bundle_stays_while_entries_federate_with_it(backend: Tested) {
    let (store, ids) = store_with(backend, &[entry("a", "/a", &["other"])]).await;
    let kept = store.bundle_delete(&other(), Federating::Keep, &ids).await;
    assert_eq!(kept, Err(BundleError::Federated(1)));
    assert!(store.bundle_get(&other()).await.unwrap().is_some());
    store.entries_delete(&ids).await.unwrap().unseen();
    // The index may lag: an entry that it names counts only if it still federates.
    assert!(
        store
            .bundle_delete(&other(), Federating::Keep, &ids)
            .await
            .is_ok()
    );
    let gone = store.bundle_delete(&other(), Federating::Keep, &[]).await;
    assert_eq!(gone, Err(BundleError::Missing));
}

async fn a_bundle_goes_with_its_entries(backend: Tested) {
    let alike = entry("b", "/b", &["other"]);
    let (store, ids) = store_with(backend, &[entry("a", "/a", &["other"]), alike]).await;
    // By an update two entries can be alike; they share a row.
    let like_a = |_: usize, old: &Entry| {
        Ok::<_, StoreError>(Entry {
            spiffe_id: entry("a", "/a", &[]).spiffe_id,
            ..old.clone()
        })
    };
    store
        .entries_update(&ids[1..], like_a)
        .await
        .unwrap()
        .unseen()[0]
        .as_ref()
        .unwrap();
    let deleted = store
        .bundle_delete(&other(), Federating::Delete, &ids)
        .await;
    assert!(deleted.is_ok());
    assert_eq!(entries(&store).await, []);
    // Nothing is left that would keep an entry like them away.
    let again = store
        .entries_create(&[entry("c", "/a", &[])])
        .await
        .unwrap()
        .unseen();
    assert!(again[0].is_ok());
}

async fn a_bundle_goes_and_its_entries_stay(backend: Tested) {
    let third = TrustDomain::new("third").unwrap();
    backend.commit(Vec::new()).await.unwrap();
    let store = Store::new(Arc::clone(&backend));
    store
        .bundle_set(&Bundle::empty(third))
        .await
        .unwrap()
        .unseen();
    let made = [
        entry("a", "/a", &["other", "third"]),
        entry("b", "/b", &["third"]),
    ];
    let (store, ids) = store_with(backend, &made).await;
    let deleted = store
        .bundle_delete(&other(), Federating::Dissociate, &ids)
        .await;
    assert!(deleted.is_ok());
    let left = entries(&store).await;
    let want = Entry {
        revision_number: 1,
        ..entry("a", "/a", &["third"])
    };
    assert_eq!(left, [want, made[1].clone()]);
    assert!(store.bundle_get(&other()).await.unwrap().is_none());
}

async fn very_many_entries_are_let_go_in_bounded_commits(backend: Tested) {
    let count = limits::MAX_COMMIT_ENTRIES + 5;
    let many: Vec<_> = (0..count)
        .map(|i| entry(&format!("e{i}"), &format!("/w/{i}"), &["other"]))
        .collect();
    let (store, ids) = store_with(backend, &many).await;
    let before = *store.head().borrow();
    let deleted = store
        .bundle_delete(&other(), Federating::Dissociate, &ids)
        .await;
    assert!(deleted.is_ok());
    assert_eq!(store.head().borrow().get() - before.get(), 2);
    let mut left = store.entries_page(None).await.unwrap();
    let last = left.last().unwrap().value.id.clone();
    left.extend(store.entries_page(Some(&last)).await.unwrap());
    assert_eq!(left.len(), count);
    assert!(
        left.iter()
            .all(|record| record.value.federates_with.is_empty())
    );
}

async fn a_relationship_is_made_once_together_with_its_bundle(backend: Tested) {
    let store = Store::new(backend);
    let first = relationship("https://a.test");
    let made = store.relationship_create(&first, Some(&bundle(60))).await;
    let seq = made.unwrap().seq();
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(60)));
    let second = relationship("https://b.test");
    let again = store.relationship_create(&second, Some(&bundle(61))).await;
    assert_eq!(again, Err(RelationshipError::Exists));
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(60)));
    let Feed::Changed { objects, .. } = store.changed(Seq::ZERO).await.unwrap() else {
        panic!("forgotten already");
    };
    let record = Record {
        value: first,
        created: seq,
    };
    assert!(objects.contains(&Changed::Relationship(other(), Some(record))));
}

async fn a_relationship_is_changed_and_removed_while_its_bundle_stays(backend: Tested) {
    let store = Store::new(backend);
    let missing = store
        .relationship_update(&other(), Relationship::clone, None)
        .await;
    assert_eq!(missing, Err(RelationshipError::Missing));
    let missing = store.relationship_delete(&other()).await;
    assert_eq!(missing, Err(RelationshipError::Missing));
    let first = relationship("https://a.test");
    store
        .relationship_create(&first, Some(&bundle(60)))
        .await
        .unwrap()
        .unseen();
    let second = relationship("https://b.test");
    let change = |_: &Relationship| second.clone();
    let changed = store
        .relationship_update(&other(), change, Some(&bundle(61)))
        .await;
    assert_eq!(changed.unwrap().unseen(), second);
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(61)));
    store.relationship_delete(&other()).await.unwrap().unseen();
    assert_eq!(store.relationships_page(None).await.unwrap(), []);
    assert_eq!(store.bundle_get(&other()).await.unwrap(), Some(bundle(61)));
}
