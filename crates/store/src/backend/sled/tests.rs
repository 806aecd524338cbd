use super::*;
use crate::backend::{Changes, Expect};

fn commit(name: &str, value: &'static [u8]) -> Commit {
    let key = Key::new(Table::Entry, name);
    Commit {
        expect: vec![(key.clone(), Expect::Absent)],
        put: vec![(key, value.into())],
        ..Commit::default()
    }
}

/// Copies the files as a process that is killed now would leave them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

async fn names(store: &Sled) -> Vec<String> {
    let rows = store.scan(Table::Entry, None, 1_000).await.unwrap();
    rows.iter().map(|row| row.key.name().to_owned()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sled::open(&dir.path().join("live")).unwrap();
    for round in 0..10 {
        let batch = (0..7)
            .map(|i| commit(&format!("{round}-{i}"), b"value"))
            .collect();
        let results = store.commit(batch).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
        // Not closed: the copy is what the disk has at this moment.
        let killed = dir.path().join(format!("killed-{round}"));
        copy(&dir.path().join("live"), &killed);
        let reopened = Sled::open(&killed).unwrap();
        assert_eq!(names(&reopened).await, names(&store).await);
        assert_eq!(names(&reopened).await.len(), 7 * (round + 1));
    }
}

#[tokio::test]
async fn a_reopened_store_keeps_counting_but_not_the_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sled::open(dir.path()).unwrap();
    let first = store.commit(vec![commit("a", b"1")]).await.unwrap()[0]
        .clone()
        .unwrap();
    drop(store);
    let store = Sled::open(dir.path()).unwrap();
    assert_eq!(*store.head().borrow(), first);
    assert_eq!(store.changes(Seq::ZERO, 10).await.unwrap(), Changes::TooOld);
    assert_eq!(
        store.changes(first, 10).await.unwrap(),
        Changes::Rows {
            through: first,
            changes: vec![]
        }
    );
    let second = store.commit(vec![commit("b", b"1")]).await.unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(second, first.next());
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sled::open(dir.path()).unwrap();
    let refusal = Sled::open(dir.path()).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    assert!(
        refusal
            .to_string()
            .contains("another server is using the data directory")
    );
    drop(store);
    Sled::open(dir.path()).unwrap();
}

#[tokio::test]
async fn an_unfinished_snapshot_does_not_keep_the_store_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sled::open(dir.path()).unwrap();
    store.commit(vec![commit("a", b"1")]).await.unwrap();
    drop(store);
    let left_behind = dir
        .path()
        .join(FOLDER)
        .join("snap.00000000000000FF.generating");
    fs::write(&left_behind, b"").unwrap();
    let store = Sled::open(dir.path()).unwrap();
    assert_eq!(names(&store).await, ["a"]);
    assert!(!left_behind.exists());
}

#[tokio::test]
async fn large_values_never_leave_the_synced_file() {
    static BIG: [u8; 1 << 20] = [7; 1 << 20];
    let dir = tempfile::tempdir().unwrap();
    let store = Sled::open(dir.path()).unwrap();
    for name in ["a", "b", "c"] {
        store.commit(vec![commit(name, &BIG)]).await.unwrap();
    }
    drop(store);
    let blobs = dir.path().join(FOLDER).join("blobs");
    assert_eq!(fs::read_dir(blobs).map_or(0, Iterator::count), 0);
}

#[test]
fn a_directory_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refusal = Sled::open(file.path()).unwrap_err();
    assert!(matches!(refusal, OpenError::Directory { .. }), "{refusal}");
}

#[test]
fn the_error_of_a_full_disk_says_what_to_do() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let message = rows::describe(&::sled::Error::Io(full));
    assert!(message.contains("make room"), "{message}");
}
