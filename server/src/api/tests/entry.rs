//! The administration of entries.

use countersign_proto::spire::api::server::entry::v1 as wire;

use super::*;

async fn try_create(
    fixture: &Fixture,
    entries: Vec<types::Entry>,
) -> Vec<(Code, String, Option<types::Entry>)> {
    let request = wire::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let answer = fixture
        .local()
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner();
    answer
        .results
        .into_iter()
        .map(|result| {
            let status = result.status.unwrap();
            (code(&status), status.message, result.entry)
        })
        .collect()
}

async fn update(
    fixture: &Fixture,
    entry: types::Entry,
    input_mask: Option<types::EntryMask>,
) -> (Code, String, Option<types::Entry>) {
    let request = wire::BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask,
        output_mask: None,
    };
    let answer = fixture
        .local()
        .entries()
        .batch_update_entry(request)
        .await
        .unwrap()
        .into_inner();
    let result = answer.results.into_iter().next().unwrap();
    let status = result.status.unwrap();
    (code(&status), status.message, result.entry)
}

#[tokio::test]
async fn a_new_entry_gets_what_is_the_servers() {
    let fixture = Fixture::new().await;
    let asked = types::Entry {
        revision_number: 7,
        created_at: 7,
        ..entry("/a", "/p")
    };
    let made = create(&fixture.local(), vec![asked.clone()])
        .await
        .remove(0);
    assert!(uuid::Uuid::parse_str(&made.id).is_ok());
    assert_eq!(
        (made.revision_number, made.created_at),
        (0, i64::try_from(START).unwrap())
    );
    assert_eq!(made.spiffe_id, asked.spiffe_id);
    let get = wire::GetEntryRequest {
        id: made.id.clone(),
        output_mask: None,
    };
    assert_eq!(
        fixture
            .local()
            .entries()
            .get_entry(get)
            .await
            .unwrap()
            .into_inner(),
        made
    );
    let named = types::Entry {
        id: "my.entry-1".into(),
        ..entry("/b", "/p")
    };
    assert_eq!(
        create(&fixture.local(), vec![named]).await[0].id,
        "my.entry-1"
    );
}

#[tokio::test]
async fn a_similar_entry_comes_back_with_its_item() {
    let fixture = Fixture::new().await;
    let first = create(&fixture.local(), vec![entry("/a", "/p")])
        .await
        .remove(0);
    let alike = types::Entry {
        x509_svid_ttl: 7,
        hint: "h".into(),
        ..entry("/a", "/p")
    };
    let taken = types::Entry {
        id: first.id.clone(),
        ..entry("/b", "/p")
    };
    let results = try_create(&fixture, vec![alike, taken, entry("/c", "/p")]).await;
    let want = (
        Code::AlreadyExists,
        "similar entry already exists".to_owned(),
        Some(first.clone()),
    );
    assert_eq!(results[0], want);
    assert_eq!((results[1].0, &results[1].2), (Code::AlreadyExists, &None));
    assert_eq!(results[2].0, Code::Ok);

    // What is repeated conflicts too, after the check for likeness.
    let mut twice = entry("/d", "/p");
    twice.selectors.push(twice.selectors[0].clone());
    let mut alike_twice = entry("/a", "/p");
    alike_twice.selectors.push(alike_twice.selectors[0].clone());
    let results = try_create(&fixture, vec![twice, alike_twice]).await;
    assert_eq!((results[0].0, &results[0].2), (Code::AlreadyExists, &None));
    assert_eq!(
        (results[1].0, &results[1].2),
        (Code::AlreadyExists, &Some(first))
    );
}

#[tokio::test]
async fn a_bad_item_does_not_stop_the_others() {
    let fixture = Fixture::new().await;
    let other = types::Spiffeid {
        trust_domain: "other".into(),
        path: "/a".into(),
    };
    let bad = vec![
        types::Entry {
            parent_id: None,
            ..entry("/a", "/p")
        },
        types::Entry {
            spiffe_id: Some(other.clone()),
            ..entry("/a", "/p")
        },
        types::Entry {
            parent_id: Some(other),
            ..entry("/a", "/p")
        },
        types::Entry {
            selectors: vec![],
            ..entry("/a", "/p")
        },
        types::Entry {
            id: "a/b".into(),
            ..entry("/a", "/p")
        },
        types::Entry {
            x509_svid_ttl: -1,
            ..entry("/a", "/p")
        },
        entry("/fine", "/p"),
    ];
    let results = try_create(&fixture, bad).await;
    for (code, message, entry) in &results[..6] {
        assert_eq!(*code, Code::InvalidArgument, "{message}");
        assert_eq!(*entry, None);
    }
    assert_eq!(results[6].0, Code::Ok);
    let federated = types::Entry {
        federates_with: vec!["nobody.org".into()],
        ..entry("/f", "/p")
    };
    let results = try_create(&fixture, vec![federated]).await;
    assert_eq!(results[0].0, Code::Internal);
    let want = "failed to create entry: unable to find federated bundle \"spiffe://nobody.org\"";
    assert_eq!(results[0].1, want);
    let many = wire::BatchCreateEntryRequest {
        entries: vec![types::Entry::default(); 5_001],
        output_mask: None,
    };
    let status = fixture
        .local()
        .entries()
        .batch_create_entry(many)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_update_writes_what_the_mask_names() {
    let fixture = Fixture::new().await;
    let made = create(&fixture.local(), vec![entry("/a", "/p")])
        .await
        .remove(0);
    let mask = types::EntryMask {
        hint: true,
        created_at: true,
        ..Default::default()
    };
    // Everything else is nonsense, and is not looked at.
    let asked = types::Entry {
        id: made.id.clone(),
        hint: "new".into(),
        x509_svid_ttl: -5,
        created_at: 3,
        ..Default::default()
    };
    let (code, message, changed) = update(&fixture, asked.clone(), Some(mask)).await;
    assert_eq!((code, message.as_str()), (Code::Ok, "OK"));
    let want = types::Entry {
        hint: "new".into(),
        revision_number: 1,
        ..made.clone()
    };
    assert_eq!(changed, Some(want));
    let (code, message, _) = update(&fixture, asked, None).await;
    assert_eq!(
        code,
        Code::InvalidArgument,
        "without a mask everything counts"
    );
    assert!(
        message.starts_with("failed to convert entry: "),
        "{message}"
    );
    for unknown in ["", "unknown", "a/b"] {
        let asked = types::Entry {
            id: unknown.into(),
            ..entry("/a", "/p")
        };
        let (code, message, entry) = update(&fixture, asked, None).await;
        assert_eq!(
            (code, message.as_str()),
            (Code::NotFound, "failed to update entry")
        );
        assert_eq!(entry, None);
    }
    let moved = types::Spiffeid {
        trust_domain: "other".into(),
        path: "/a".into(),
    };
    let asked = types::Entry {
        id: made.id,
        spiffe_id: Some(moved),
        ..entry("/a", "/p")
    };
    assert_eq!(update(&fixture, asked, None).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn entries_are_deleted_once() {
    let fixture = Fixture::new().await;
    let made = create(&fixture.local(), vec![entry("/a", "/p")])
        .await
        .remove(0);
    let ids = vec![
        made.id.clone(),
        String::new(),
        "unknown".into(),
        made.id.clone(),
    ];
    let request = wire::BatchDeleteEntryRequest { ids: ids.clone() };
    let answer = fixture
        .local()
        .entries()
        .batch_delete_entry(request)
        .await
        .unwrap()
        .into_inner();
    let told: Vec<_> = answer
        .results
        .iter()
        .map(|r| {
            (
                r.status.as_ref().map(code).unwrap(),
                r.status.as_ref().unwrap().message.as_str(),
            )
        })
        .collect();
    let missing = (Code::NotFound, "entry not found");
    let want = [
        (Code::Ok, "OK"),
        (Code::InvalidArgument, "missing entry ID"),
        missing,
        missing,
    ];
    assert_eq!(told, want);
    assert_eq!(
        answer.results.into_iter().map(|r| r.id).collect::<Vec<_>>(),
        ids
    );
    let get = |id: &str| wire::GetEntryRequest {
        id: id.into(),
        output_mask: None,
    };
    let gone = fixture
        .local()
        .entries()
        .get_entry(get(&made.id))
        .await
        .unwrap_err();
    assert_eq!(
        (gone.code(), gone.message()),
        (Code::NotFound, "entry not found")
    );
    let none = fixture
        .local()
        .entries()
        .get_entry(get(""))
        .await
        .unwrap_err();
    assert_eq!(
        (none.code(), none.message()),
        (Code::InvalidArgument, "missing ID")
    );
}

#[tokio::test]
async fn entries_are_listed_in_pages_and_counted() {
    let fixture = Fixture::new().await;
    let entries = (0..5)
        .map(|i| entry(&format!("/{i}"), &format!("/p{}", i % 2)))
        .collect();
    let made = create(&fixture.local(), entries).await;
    let mut client = fixture.local().entries();
    let mut request = wire::ListEntriesRequest {
        page_size: 2,
        ..Default::default()
    };
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let page = client
            .list_entries(request.clone())
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.entries);
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((pages, &seen), (4, &made));
    let filter = wire::list_entries_request::Filter {
        by_parent_id: Some(wire_id("/p1")),
        ..Default::default()
    };
    let request = wire::ListEntriesRequest {
        filter: Some(filter),
        output_mask: Some(types::EntryMask::default()),
        ..Default::default()
    };
    let some = client.list_entries(request).await.unwrap().into_inner();
    let bare = |e: &types::Entry| types::Entry {
        id: e.id.clone(),
        ..Default::default()
    };
    assert_eq!(some.entries, [bare(&made[1]), bare(&made[3])]);
    let filter = wire::count_entries_request::Filter {
        by_spiffe_id: Some(wire_id("/3")),
        ..Default::default()
    };
    let count = client
        .count_entries(wire::CountEntriesRequest {
            filter: Some(filter),
        })
        .await;
    assert_eq!(count.unwrap().into_inner().count, 1);
    let count = client
        .count_entries(wire::CountEntriesRequest { filter: None })
        .await;
    assert_eq!(count.unwrap().into_inner().count, 5);
}

#[tokio::test]
async fn errors_have_the_texts_of_spire() {
    let fixture = Fixture::new().await;
    let id = |path: &str| Some(wire_id(path));
    let convert = "failed to convert entry: ";
    let create = "failed to create entry: ";
    let of = |change: fn(&mut types::Entry)| {
        let mut entry = entry("/a", "/p");
        change(&mut entry);
        entry
    };
    let cases = [
        (
            of(|e| e.spiffe_id = None),
            format!("{convert}invalid spiffe ID: request must specify SPIFFE ID"),
        ),
        (
            types::Entry {
                parent_id: None,
                spiffe_id: None,
                ..entry("/a", "/p")
            },
            format!("{convert}invalid parent ID: request must specify SPIFFE ID"),
        ),
        (
            types::Entry {
                parent_id: id(""),
                ..entry("/a", "/p")
            },
            format!(
                "{convert}invalid parent ID: \"spiffe://example.org\" is not a member of trust domain \"example.org\"; path is empty"
            ),
        ),
        (
            types::Entry {
                spiffe_id: id(""),
                ..entry("/a", "/p")
            },
            format!(
                "{convert}invalid spiffe ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty"
            ),
        ),
        (
            entry("/spire/agent/x", "/p"),
            format!(
                "{convert}invalid spiffe ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace"
            ),
        ),
        (
            of(|e| e.selectors.clear()),
            format!("{convert}selector list is empty"),
        ),
        (
            of(|e| e.selectors[0].r#type.clear()),
            format!("{convert}missing selector type"),
        ),
        (
            of(|e| e.hint = "h".repeat(1025)),
            format!("{convert}hint is too long, max length is 1024 characters"),
        ),
        // What the store would find.
        (of(|e| e.x509_svid_ttl = -1), create.to_owned()),
        (of(|e| e.jwt_svid_ttl = -1), create.to_owned()),
        (of(|e| e.id = "a/b".into()), create.to_owned()),
        (
            of(|e| {
                e.store_svid = true;
                e.selectors.push(types::Selector {
                    r#type: "other".into(),
                    value: "x".into(),
                });
            }),
            format!("{create}selector types must be the same when store SVID is enabled"),
        ),
        // Of several faults, who is meant comes first and what the store would find last.
        (
            of(|e| {
                e.x509_svid_ttl = -1;
                e.dns_names = vec!["-".into()];
                e.selectors.clear();
            }),
            format!("{convert}invalid DNS name"),
        ),
    ];
    let (entries, texts): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let results = try_create(&fixture, entries).await;
    for ((code, message, entry), text) in results.into_iter().zip(texts) {
        assert_eq!((code, entry), (Code::InvalidArgument, None), "{message}");
        assert!(
            message.starts_with(&text),
            "{message:?} instead of {text:?}"
        );
    }
}

#[tokio::test]
async fn an_update_is_checked_before_the_entry_is_looked_up() {
    let fixture = Fixture::new().await;
    let asked = types::Entry {
        id: "unknown".into(),
        ..Default::default()
    };
    let (code, message, _) = update(&fixture, asked.clone(), None).await;
    assert_eq!(code, Code::InvalidArgument, "{message}");
    let nothing = Some(types::EntryMask::default());
    assert_eq!(update(&fixture, asked, nothing).await.0, Code::NotFound);
    let ttl = types::Entry {
        id: "unknown".into(),
        jwt_svid_ttl: -1,
        ..Default::default()
    };
    let mask = types::EntryMask {
        jwt_svid_ttl: true,
        ..Default::default()
    };
    let (code, message, _) = update(&fixture, ttl, Some(mask)).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("failed to update entry: "), "{message}");
}

#[tokio::test]
async fn an_update_may_make_entries_similar() {
    let fixture = Fixture::new().await;
    let made = create(&fixture.local(), vec![entry("/a", "/p"), entry("/b", "/p")]).await;
    let alike = types::Entry {
        id: made[0].id.clone(),
        ..entry("/b", "/p")
    };
    let (code, _, changed) = update(&fixture, alike.clone(), None).await;
    assert_eq!((code, changed.unwrap().revision_number), (Code::Ok, 1));
    let results = try_create(&fixture, vec![entry("/b", "/p"), entry("/a", "/p")]).await;
    assert_eq!(
        (results[0].0, results[1].0),
        (Code::AlreadyExists, Code::Ok)
    );

    // The same entry twice in one request is changed twice, in order.
    let hinted = |hint: &str| types::Entry {
        hint: hint.into(),
        ..alike.clone()
    };
    let request = wire::BatchUpdateEntryRequest {
        entries: vec![hinted("one"), hinted("two")],
        input_mask: None,
        output_mask: Some(types::EntryMask {
            hint: true,
            revision_number: true,
            ..Default::default()
        }),
    };
    let answer = fixture.local().entries().batch_update_entry(request).await;
    let told: Vec<_> = answer
        .unwrap()
        .into_inner()
        .results
        .into_iter()
        .map(|result| result.entry.unwrap())
        .map(|entry| (entry.hint, entry.revision_number, entry.spiffe_id))
        .collect();
    assert_eq!(told, [("one".into(), 2, None), ("two".into(), 3, None)]);
}

#[tokio::test]
async fn of_two_similar_entries_in_a_request_the_first_is_made() {
    let fixture = Fixture::new().await;
    let request = wire::BatchCreateEntryRequest {
        entries: vec![entry("/a", "/p"), entry("/a", "/p")],
        output_mask: Some(types::EntryMask {
            spiffe_id: true,
            ..Default::default()
        }),
    };
    let answer = fixture.local().entries().batch_create_entry(request).await;
    let results = answer.unwrap().into_inner().results;
    let codes: Vec<_> = results
        .iter()
        .map(|result| code(result.status.as_ref().unwrap()))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::AlreadyExists]);
    assert_eq!(results[0].entry, results[1].entry);
    assert!(
        results[0].entry.as_ref().unwrap().selectors.is_empty(),
        "masked"
    );
}
