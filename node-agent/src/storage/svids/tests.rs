//! What is kept comes back, and what was tampered with does not.

use std::time::Duration;

use countersign_identity::UnixTime;

use super::*;
use crate::entry::tests::entry;
use crate::svid::ServedSvid;
use crate::test_ca::{TestCa, trust_domain};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn plain() -> Zeroizing<Vec<u8>> {
    let ca = TestCa::new(NOW);
    let entry = Arc::new(entry("a", &["unix:uid:1", "unix:path:/a b:c"]));
    let svid = ca.issue(&entry.spiffe_id, Duration::from_secs(60), NOW);
    let served = Arc::new(ServedSvid::new(svid));
    let mut other = ca.bundle();
    other.trust_domain = TrustDomain::new("other.org").unwrap();
    other.x509_authorities[0] = other.x509_authorities[0].with_tainted(true);
    let other = Arc::new(other);
    write_plain([(&entry, &served)].into_iter(), [&other].into_iter())
}

fn open(directory: &Path) -> SvidStore {
    SvidStore::open_with(directory, None, &trust_domain()).unwrap()
}

#[test]
fn what_is_kept_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    assert!(open(directory.path()).load().unwrap().is_none());
    open(directory.path()).save(&mut plain()).unwrap();
    let kept = open(directory.path()).load().unwrap().unwrap();
    let (kept_entry, svid) = &kept.svids[0];
    assert_eq!(*kept_entry, entry("a", &["unix:uid:1", "unix:path:/a b:c"]));
    assert_eq!(svid.id(), &kept_entry.spiffe_id);
    let other = &kept.federated[&TrustDomain::new("other.org").unwrap()];
    assert!(other.x509_authorities[0].is_tainted());
}

#[test]
fn files_are_private_and_show_neither_keys_nor_names() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).save(&mut plain()).unwrap();
    for name in [FILE, KEY_FILE] {
        let path = directory.path().join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"example"), "{name}");
    }
}

#[test]
fn changed_bytes_and_other_keys_or_domains_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.save(&mut plain()).unwrap();
    let path = directory.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    for at in [0, 7, 8, 20, 21, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(
            matches!(store.load(), Err(Unusable::Damaged { .. })),
            "{at}"
        );
    }
    for len in [0, 5, 8, 19, 20, 30] {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(store.load().is_err(), "{len}");
    }
    std::fs::write(&path, &good).unwrap();
    assert!(store.load().unwrap().is_some());
    let other = TrustDomain::new("other.org").unwrap();
    let other = SvidStore::open_with(directory.path(), None, &other).unwrap();
    assert!(other.load().is_err());
    std::fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
    assert!(open(directory.path()).load().is_err(), "another key");
}

#[test]
fn files_that_others_may_read_are_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.save(&mut plain()).unwrap();
    let path = directory.path().join(FILE);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(store.load(), Err(Unusable::Exposed { .. })));
}

#[test]
fn a_key_that_systemd_hands_out_is_used_and_none_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = tempfile::tempdir().unwrap();
    let path = credentials.path().join(CREDENTIAL);
    std::fs::write(&path, [5; KEY]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let open = || {
        SvidStore::open_with(directory.path(), Some(credentials.path()), &trust_domain()).unwrap()
    };
    open().save(&mut plain()).unwrap();
    assert!(open().load().unwrap().is_some());
    assert!(!directory.path().join(KEY_FILE).exists());
}

#[test]
fn an_invalid_document_is_refused_whole() {
    let text = String::from_utf8(plain().to_vec()).unwrap();
    assert!(read_plain(text.as_bytes(), &trust_domain()).is_ok());
    for (from, to) in [
        ("\"revision\":", "\"revision\":-1,\"x\":"),
        ("unix:uid:1", "unix"),
        ("spiffe://example.org/a", "spiffe://other.org/a"),
        ("spiffe://example.org/a", "spiffe://example.org/b"),
        ("\"on_demand\":false", "\"on_demand\":1"),
        ("MII", "AAA"),
    ] {
        let bad = text.replace(from, to);
        assert_ne!(bad, text, "{from}");
        assert!(
            read_plain(bad.as_bytes(), &trust_domain()).is_err(),
            "{from}"
        );
    }
    for len in 0..text.len().min(400) {
        assert!(read_plain(&text.as_bytes()[..len], &trust_domain()).is_err());
    }
}
