//! What every backend must do. The same tests for each.

use std::sync::Arc;

use bytes::Bytes;

use super::{Backend, Change, Changes, Commit, Conflict, Expect, Key, Seq, Table};
use crate::limits;

/// Runs each of these tests against each backend, in a store of its own.
macro_rules! for_every_backend {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(std::sync::Arc::new(crate::backend::memory::Memory::new())).await;
            })+
        }
        mod sled {
            $(#[tokio::test]
            async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                let sled = crate::backend::sled::Sled::open(dir.path()).unwrap();
                super::$test(std::sync::Arc::new(sled)).await;
            })+
        }
    };
}
pub(crate) use for_every_backend;

for_every_backend!(
    a_row_is_read_as_it_was_written,
    a_commit_is_all_or_nothing,
    the_first_expectation_that_fails_is_named,
    each_commit_of_a_batch_stands_alone,
    versions_are_the_commits_that_wrote,
    a_scan_goes_by_name_and_stays_in_its_table,
    values_of_every_size_come_back,
    the_feed_tells_every_change_in_order,
    of_many_that_expect_absence_one_wins,
);

type Tested = Arc<dyn Backend>;

fn key(name: &str) -> Key {
    Key::new(Table::Entry, name)
}

fn put(name: &str, value: &'static str) -> Commit {
    Commit {
        put: vec![(key(name), Bytes::from_static(value.as_bytes()))],
        ..Commit::default()
    }
}

fn expecting(name: &str, expect: Expect, commit: Commit) -> Commit {
    Commit {
        expect: vec![(key(name), expect)],
        ..commit
    }
}

async fn commit(store: &Tested, commit: Commit) -> Result<Seq, Conflict> {
    store.commit(vec![commit]).await.unwrap().pop().unwrap()
}

async fn value(store: &Tested, name: &str) -> Option<Bytes> {
    store
        .get(vec![key(name)])
        .await
        .unwrap()
        .pop()
        .unwrap()
        .map(|row| row.value)
}

async fn a_row_is_read_as_it_was_written(store: Tested) {
    assert_eq!(value(&store, "a").await, None);
    let seq = commit(&store, put("a", "1")).await.unwrap();
    let rows = store.get(vec![key("b"), key("a")]).await.unwrap();
    assert_eq!(rows[0], None);
    let row = rows[1].clone().unwrap();
    assert_eq!(
        (row.key, row.version, row.value),
        (key("a"), seq, "1".into())
    );
    commit(
        &store,
        Commit {
            delete: vec![key("a"), key("b")],
            ..Commit::default()
        },
    )
    .await
    .unwrap();
    assert_eq!(value(&store, "a").await, None);
}

async fn a_commit_is_all_or_nothing(store: Tested) {
    let both = Commit {
        expect: vec![(key("there"), Expect::Present)],
        put: vec![(key("a"), "1".into()), (key("b"), "1".into())],
        delete: vec![key("there")],
    };
    assert_eq!(
        commit(&store, both.clone()).await,
        Err(Conflict { key: key("there") })
    );
    assert_eq!(
        (value(&store, "a").await, value(&store, "b").await),
        (None, None)
    );
    commit(&store, put("there", "1")).await.unwrap();
    commit(&store, both).await.unwrap();
    assert_eq!(value(&store, "a").await, Some("1".into()));
    assert_eq!(value(&store, "b").await, Some("1".into()));
    assert_eq!(value(&store, "there").await, None);
}

async fn the_first_expectation_that_fails_is_named(store: Tested) {
    commit(&store, put("a", "1")).await.unwrap();
    let commit_ = Commit {
        expect: vec![
            (key("a"), Expect::Present),
            (key("b"), Expect::Absent),
            (key("c"), Expect::Present),
            (key("a"), Expect::Absent),
        ],
        ..Commit::default()
    };
    assert_eq!(
        commit(&store, commit_).await,
        Err(Conflict { key: key("c") })
    );
}

async fn each_commit_of_a_batch_stands_alone(store: Tested) {
    let create = |value| expecting("a", Expect::Absent, put("a", value));
    let results = store
        .commit(vec![create("1"), create("2"), put("b", "1")])
        .await
        .unwrap();
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1], Err(Conflict { key: key("a") }));
    assert_eq!(value(&store, "a").await, Some("1".into()));
    assert_eq!(value(&store, "b").await, Some("1".into()));
    assert!(results[0].as_ref().ok() < results[2].as_ref().ok());
}

async fn versions_are_the_commits_that_wrote(store: Tested) {
    let first = commit(&store, put("a", "1")).await.unwrap();
    let second = commit(
        &store,
        expecting("a", Expect::Version(first), put("a", "2")),
    )
    .await
    .unwrap();
    assert!(second > first);
    let late = expecting("a", Expect::Version(first), put("a", "3"));
    assert_eq!(commit(&store, late).await, Err(Conflict { key: key("a") }));
    assert_eq!(value(&store, "a").await, Some("2".into()));
    // A row that was removed and made again is another.
    commit(
        &store,
        Commit {
            delete: vec![key("a")],
            ..Commit::default()
        },
    )
    .await
    .unwrap();
    commit(&store, put("a", "4")).await.unwrap();
    let late = expecting("a", Expect::Version(second), put("a", "5"));
    assert!(commit(&store, late).await.is_err());
}

async fn a_scan_goes_by_name_and_stays_in_its_table(store: Tested) {
    for name in ["b", "a", "ab", "c"] {
        commit(&store, put(name, "1")).await.unwrap();
    }
    let other = Commit {
        put: vec![
            (Key::new(Table::Node, "a"), "1".into()),
            (Key::new(Table::Ca, "z"), "1".into()),
        ],
        ..Commit::default()
    };
    commit(&store, other).await.unwrap();
    let scan = async |after: Option<&str>, limit| {
        let rows = store
            .scan(Table::Entry, after.map(Into::into), limit)
            .await
            .unwrap();
        rows.iter()
            .map(|row| row.key.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(scan(None, 100).await, ["a", "ab", "b", "c"]);
    assert_eq!(scan(None, 2).await, ["a", "ab"]);
    assert_eq!(scan(Some("ab"), 2).await, ["b", "c"]);
    assert_eq!(scan(Some("aa"), 1).await, ["ab"]);
    assert!(scan(Some("c"), 2).await.is_empty());
    assert_eq!(store.scan(Table::Ca, None, 9).await.unwrap().len(), 1);
}

async fn values_of_every_size_come_back(store: Tested) {
    let chunk = limits::MAX_CHUNK_BYTES;
    // Growing and shrinking over the size of a piece, and over several.
    for size in [
        0,
        1,
        chunk,
        chunk + 1,
        5 * chunk + 7,
        2 * chunk,
        3,
        3 * chunk,
        0,
    ] {
        let bytes: Bytes = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let big = Commit {
            put: vec![(key("big"), bytes.clone())],
            ..Commit::default()
        };
        commit(&store, big).await.unwrap();
        assert_eq!(value(&store, "big").await.unwrap(), bytes, "{size} bytes");
        let rows = store.scan(Table::Entry, None, 10).await.unwrap();
        assert_eq!((rows.len(), &rows[0].value), (1, &bytes), "{size} bytes");
    }
}

async fn the_feed_tells_every_change_in_order(store: Tested) {
    let mut head = store.head();
    let start = *head.borrow_and_update();
    let first = commit(&store, put("a", "1")).await.unwrap();
    let remove_and_put = Commit {
        put: vec![(key("b"), "1".into())],
        delete: vec![key("a")],
        ..Commit::default()
    };
    let second = commit(&store, remove_and_put).await.unwrap();
    // Whoever was answered finds the head there.
    assert_eq!(*head.borrow_and_update(), second);
    let (through, changes) = rows(&store, start).await;
    assert_eq!(
        (through, &changes[0]),
        (
            second,
            &Change {
                seq: first,
                key: key("a")
            }
        )
    );
    let mut rest: Vec<_> = changes[1..].iter().map(|c| (c.seq, c.key.name())).collect();
    rest.sort();
    assert_eq!(rest, [(second, "a"), (second, "b")]);
    // A commit that changes nothing is a commit.
    let empty = commit(&store, Commit::default()).await.unwrap();
    assert_eq!(*head.borrow_and_update(), empty);
    assert_eq!(rows(&store, second).await, (empty, vec![]));
    assert_eq!(rows(&store, empty).await, (empty, vec![]));
}

async fn rows(store: &Tested, after: Seq) -> (Seq, Vec<Change>) {
    match store.changes(after, 100).await.unwrap() {
        Changes::Rows { through, changes } => (through, changes),
        Changes::TooOld => panic!("too old"),
    }
}

async fn of_many_that_expect_absence_one_wins(store: Tested) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = Arc::clone(&store);
        tasks.spawn(
            async move { commit(&store, expecting("a", Expect::Absent, put("a", "1"))).await },
        );
    }
    let wins = tasks
        .join_all()
        .await
        .into_iter()
        .filter(Result::is_ok)
        .count();
    assert_eq!(wins, 1);
}
