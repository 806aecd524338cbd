//! What survives a crash, and who is kept out.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::test_ca::{TestCa, trust_domain};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn identity(ca: &TestCa) -> NodeIdentity {
    let id = trust_domain()
        .id_with_path("/spire/agent/join_token/t")
        .unwrap();
    NodeIdentity {
        svid: ca.issue(&id, Duration::from_secs(3600), NOW),
        reattestable: false,
    }
}

fn serials(state: &NodeState) -> Vec<String> {
    state
        .identities()
        .map(|i| i.svid.leaf().serial.clone())
        .collect()
}

fn serial(identity: &NodeIdentity) -> String {
    identity.svid.leaf().serial.clone()
}

fn open(directory: &Path) -> (Storage, NodeState) {
    loop {
        match Storage::open(directory, &trust_domain()) {
            // A child that another test is starting holds our locks from its fork to its exec.
            Err(StorageError::InUse { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn state_is_read_back_as_it_was_and_only_this_user_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let ca = TestCa::new(NOW);
    let (old, new) = (identity(&ca), identity(&ca));
    {
        let (storage, mut state) = open(&path);
        assert_eq!(state.identities().count(), 0);
        state.bundle = Some(ca.whole_bundle());
        state.attested(old.clone());
        state.renewed(new.clone());
        storage.save(&state).unwrap();
    }
    let (_storage, state) = open(&path);
    assert_eq!(
        serials(&state),
        [serial(&new), serial(&old)],
        "newest first"
    );
    assert_eq!(state.bundle, Some(ca.whole_bundle()), "with its JWT keys");
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path.join(STATE_FILE)), 0o600);
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn the_first_use_of_either_identity_settles_which_one_counts() {
    let ca = TestCa::new(NOW);
    let (old, new) = (identity(&ca), identity(&ca));
    let mut state = NodeState::empty(trust_domain());
    state.attested(old.clone());
    assert!(!state.used(&old.svid), "nothing to settle");
    state.renewed(new.clone());
    assert!(state.used(&new.svid));
    assert_eq!(serials(&state), [serial(&new)]);

    // The server had never heard of the renewed one, and answers to the old one still.
    let lost = identity(&ca);
    state.renewed(lost.clone());
    assert!(state.used(&new.svid));
    assert_eq!(serials(&state), [serial(&new)]);
    assert!(!state.used(&lost.svid));
}

#[test]
fn an_identity_with_a_second_or_less_left_is_not_used() {
    let ca = TestCa::new(NOW);
    let mut state = NodeState::empty(trust_domain());
    state.attested(identity(&ca));
    let end = NOW.after(Duration::from_secs(3600));
    assert_eq!(state.usable_at(end.before(Duration::from_secs(2))).len(), 1);
    assert_eq!(state.usable_at(end.before(Duration::from_secs(1))).len(), 0);
}

/// The write sequence is: a temporary file, byte by byte; its rename over the state. The process may end after any of
/// these steps, and each time what is read is the old state or the new one, whole, and good for going on.
#[test]
fn a_crash_at_any_point_of_a_renewal_leaves_a_state_that_works() {
    let ca = TestCa::new(NOW);
    let (old, new) = (identity(&ca), identity(&ca));
    let mut before = NodeState::empty(trust_domain());
    before.bundle = Some(ca.bundle());
    before.attested(old.clone());
    let mut after = before.clone();
    after.renewed(new.clone());
    let (before_bytes, after_bytes) = (format::write(&before), format::write(&after));

    // Every 97th length, and the last ones, where a reader could be fooled by JSON that only lacks its end.
    let lengths = (0..after_bytes.len()).filter(|n| n % 97 == 0 || after_bytes.len() - n < 8);
    for written in lengths.chain([after_bytes.len()]) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(STATE_FILE), &*before_bytes).unwrap();
        std::fs::write(
            directory.path().join(format!(".{STATE_FILE}.new")),
            &after_bytes[..written],
        )
        .unwrap();
        let (storage, mut state) = open(directory.path());
        assert_eq!(
            serials(&state),
            [serial(&old)],
            "killed after {written} bytes"
        );
        // The leftover does not stand in the way of the next renewal.
        state.renewed(new.clone());
        storage.save(&state).unwrap();
        drop(storage);
        assert_eq!(
            serials(&open(directory.path()).1),
            [serial(&new), serial(&old)]
        );
    }

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(STATE_FILE), &*after_bytes).unwrap();
    assert_eq!(
        serials(&open(directory.path()).1),
        [serial(&new), serial(&old)],
        "killed after the rename"
    );
}

#[test]
fn a_second_node_agent_is_kept_out_until_the_first_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let error = Storage::open(directory.path(), &trust_domain()).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("data_dir of its own"), "{error}");
    drop(first);
    open(directory.path());
}

#[test]
fn a_damaged_or_foreign_state_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STATE_FILE);
    for text in [
        "",
        "{",
        "{\"version\":2,\"trust_domain\":\"example.org\"}",
        "{\"version\":1,\"trust_domain\":\"A\"}",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Storage::open(directory.path(), &trust_domain()).unwrap_err();
        assert!(
            matches!(error, StorageError::Damaged { .. }),
            "{text}: {error}"
        );
        assert!(error.to_string().contains("new join token"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    std::fs::write(&path, "{\"version\":1,\"trust_domain\":\"other.org\"}").unwrap();
    let error = Storage::open(directory.path(), &trust_domain()).unwrap_err();
    assert!(
        matches!(error, StorageError::OtherTrustDomain { .. }),
        "{error}"
    );
}

#[test]
fn a_directory_that_can_not_be_made_or_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Storage::open(&file.join("data"), &trust_domain()).unwrap_err();
    assert!(matches!(error, StorageError::Create { .. }), "{error}");
    assert!(error.to_string().contains("data_dir"), "{error}");
}

#[test]
fn a_state_file_of_another_user_is_not_believed() {
    assert_eq!(foreign(8, 7), Some(8));
    assert_eq!(foreign(8, 0), Some(8), "root is careful too");
    assert_eq!((foreign(7, 7), foreign(0, 7)), (None, None));
}
