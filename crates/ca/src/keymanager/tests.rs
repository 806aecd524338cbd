//! What every key manager promises, and what the one on the disk does about crashes and strangers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use countersign_identity::key::{KeyType, SigningKey};

use super::*;

fn names(keys: &dyn KeyManager) -> Vec<KeyName> {
    let mut names: Vec<_> = keys
        .list()
        .unwrap()
        .iter()
        .map(|key| key.name().clone())
        .collect();
    names.sort();
    names
}

fn files(folder: &Path) -> Vec<String> {
    let file_name = |file: fs::DirEntry| file.file_name().into_string().unwrap();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file_name(file.unwrap()))
        .collect();
    files.retain(|name| name != ".lock");
    files.sort();
    files
}

fn conforms(keys: &dyn KeyManager) {
    assert!(names(keys).is_empty());
    let first = keys.generate(KeyType::EcP256).unwrap();
    let second = keys.generate(KeyType::EcP384).unwrap();
    assert_ne!(first.name(), second.name());
    assert_eq!(
        (first.key_type(), second.key_type()),
        (KeyType::EcP256, KeyType::EcP384)
    );
    first.sign(b"message").unwrap();

    let listed = keys.list().unwrap();
    let again = listed
        .iter()
        .find(|key| key.name() == first.name())
        .unwrap();
    assert_eq!(again.spki(), first.spki());

    keys.remove(first.name()).unwrap();
    keys.remove(first.name()).unwrap();
    assert_eq!(names(keys), [second.name().clone()]);
}

#[test]
fn keys_are_made_listed_and_removed_in_memory() {
    conforms(&MemoryKeyManager::new());
}

#[test]
fn keys_are_made_listed_and_removed_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&DiskKeyManager::open(folder.path()).unwrap());
}

#[test]
fn keys_on_the_disk_outlive_the_process_and_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("deep/keys");
    let key = DiskKeyManager::open(&place)
        .unwrap()
        .generate(KeyType::EcP256)
        .unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    assert_eq!(files(&place), [format!("{}.key", key.name())]);
    assert_eq!(mode(&place.join(format!("{}.key", key.name()))), 0o600);

    let again = DiskKeyManager::open(&place).unwrap();
    assert_eq!(names(&again), [key.name().clone()]);
    assert_eq!(again.list().unwrap()[0].spki(), key.spki());
}

#[test]
fn what_an_interrupted_write_left_is_removed_and_is_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = DiskKeyManager::open(folder.path())
        .unwrap()
        .generate(KeyType::EcP256)
        .unwrap();
    let whole = fs::read(folder.path().join(format!("{}.key", key.name()))).unwrap();
    for content in [&whole[..whole.len() / 2], &whole] {
        let interrupted = format!(".{}.key.new", KeyName::random());
        fs::write(folder.path().join(&interrupted), content).unwrap();
        let keys = DiskKeyManager::open(folder.path()).unwrap();
        assert_eq!(names(&keys), [key.name().clone()]);
        assert_eq!(files(folder.path()), [format!("{}.key", key.name())]);
    }
}

#[test]
fn files_that_are_no_keys_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let broken = format!("{}.key", KeyName::random());
    let strangers = [
        ".bashrc",
        "keys.json",
        "notakey.key",
        ".note.key.new",
        broken.as_str(),
    ];
    for name in strangers {
        fs::write(folder.path().join(name), "something else").unwrap();
    }
    fs::create_dir(folder.path().join(format!("{}.key", "0".repeat(32)))).unwrap();
    let keys = DiskKeyManager::open(folder.path()).unwrap();
    assert!(names(&keys).is_empty());
    for name in strangers {
        assert_eq!(
            fs::read(folder.path().join(name)).unwrap(),
            b"something else"
        );
    }
}

#[test]
fn a_folder_belongs_to_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = DiskKeyManager::open(folder.path()).unwrap();
    let refused = DiskKeyManager::open(folder.path()).unwrap_err();
    assert!(
        matches!(refused, KeyManagerError::InUse { .. }),
        "{refused}"
    );
    drop(first);
    DiskKeyManager::open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let refused = DiskKeyManager::open(&folder.path().join("file/keys")).unwrap_err();
    assert!(refused.to_string().contains("file/keys"), "{refused}");
}

#[test]
fn an_open_folder_is_used_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    DiskKeyManager::open(folder.path())
        .unwrap()
        .generate(KeyType::EcP256)
        .unwrap();
}

#[test]
fn a_name_is_32_hexadecimal_characters() {
    assert!(KeyName::parse(KeyName::random().as_str()).is_some());
    for bad in [
        "",
        "abc",
        "../../../../../../../etc/passwd1",
        "0123456789ABCDEF0123456789ABCDEF",
    ] {
        assert!(KeyName::parse(bad).is_none(), "{bad}");
    }
}
