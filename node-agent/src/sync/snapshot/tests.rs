//! Who gets what, and whom a change concerns.

use std::time::Duration;

use countersign_identity::{EntryId, UnixTime};

use super::*;
use crate::entry::tests::entry;
use crate::test_ca::{TestCa, trust_domain};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn set(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|t| Selector::parse(t).unwrap()).collect()
}

fn svid() -> Arc<ServedSvid> {
    let id = trust_domain().id_with_path("/w").unwrap();
    Arc::new(ServedSvid::new(TestCa::new(NOW).issue(
        &id,
        Duration::from_secs(60),
        NOW,
    )))
}

fn served(entry: AuthorizedEntry) -> ServedEntry {
    ServedEntry {
        entry: Arc::new(entry),
        svid: Some(svid()),
    }
}

fn snapshot(entries: &[ServedEntry]) -> Snapshot {
    with_bundles(entries, bundle("example.org", 1), &[])
}

fn bundle(name: &str, sequence_number: u64) -> Arc<Bundle> {
    let mut bundle = Bundle::empty(TrustDomain::new(name).unwrap());
    bundle.sequence_number = sequence_number;
    Arc::new(bundle)
}

fn with_bundles(entries: &[ServedEntry], own: Arc<Bundle>, foreign: &[Arc<Bundle>]) -> Snapshot {
    let foreign = foreign
        .iter()
        .map(|bundle| (bundle.trust_domain.clone(), Arc::clone(bundle)));
    Snapshot::new(
        own,
        entries.to_vec(),
        foreign.collect(),
        EntrySource::Server,
    )
}

fn ids(answer: &WorkloadAnswer) -> Vec<&str> {
    match answer {
        WorkloadAnswer::Identities(all) => all.iter().map(|(entry, _)| entry.id.as_str()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_matches_whoever_has_all_of_its_selectors() {
    let snapshot = snapshot(&[
        served(entry("c", &["unix:uid:1", "unix:path:/x"])),
        served(entry("a", &["unix:uid:1"])),
        served(entry("b", &["unix:uid:2"])),
    ]);
    assert_eq!(
        ids(&snapshot.answer(&set(&["unix:uid:1", "unix:path:/x", "unix:gid:9"]))),
        ["a", "c"]
    );
    assert_eq!(ids(&snapshot.answer(&set(&["unix:uid:1"]))), ["a"]);
    assert!(matches!(
        snapshot.answer(&set(&["unix:path:/x"])),
        WorkloadAnswer::NoIdentity
    ));
    assert!(matches!(
        snapshot.answer(&set(&[])),
        WorkloadAnswer::NoIdentity
    ));
}

#[test]
fn stored_svids_are_not_served_and_unsigned_ones_are_awaited() {
    let stored = AuthorizedEntry {
        delivery: Delivery::Stored,
        ..entry("s", &["unix:uid:1"])
    };
    let one = snapshot(&[served(stored)]);
    assert!(matches!(
        one.answer(&set(&["unix:uid:1"])),
        WorkloadAnswer::NoIdentity
    ));
    let unsigned = ServedEntry {
        svid: None,
        ..served(entry("b", &["unix:uid:1"]))
    };
    let two = snapshot(&[served(entry("a", &["unix:uid:1"])), unsigned]);
    assert!(matches!(
        two.answer(&set(&["unix:uid:1"])),
        WorkloadAnswer::NotSigned
    ));
}

#[test]
fn of_entries_with_one_hint_the_oldest_is_sent() {
    let hinted = |id: &str, hint: &str, created_at| {
        served(AuthorizedEntry {
            hint: hint.into(),
            created_at,
            ..entry(id, &["unix:uid:1"])
        })
    };
    let snapshot = snapshot(&[
        hinted("a", "db", 7),
        hinted("b", "db", 5),
        hinted("c", "db", 5),
        hinted("d", "", 9),
        hinted("e", "", 1),
        hinted("f", "web", 9),
    ]);
    assert_eq!(
        ids(&snapshot.answer(&set(&["unix:uid:1"]))),
        ["b", "d", "e", "f"]
    );
}

#[test]
fn a_caller_gets_the_foreign_bundles_of_its_entries_only() {
    let td = |name: &str| TrustDomain::new(name).unwrap();
    let federating = |id: &str, with: &[&str], uid: &str| {
        served(AuthorizedEntry {
            federates_with: with.iter().map(|n| td(n)).collect(),
            ..entry(id, &[uid])
        })
    };
    let bundles = ["one.org", "two.org"].map(|name| bundle(name, 1));
    let entries = [
        federating("a", &["one.org"], "unix:uid:1"),
        federating("b", &["one.org", "unknown.org"], "unix:uid:1"),
        federating("c", &["two.org"], "unix:uid:2"),
    ];
    let snapshot = with_bundles(&entries, bundle("example.org", 1), &bundles);
    let names = |s: &SelectorSet| {
        snapshot
            .federated(s)
            .keys()
            .map(|t| t.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&set(&["unix:uid:1"])), ["one.org"]);
    assert_eq!(
        names(&set(&["unix:uid:1", "unix:uid:2"])),
        ["one.org", "two.org"]
    );
    assert!(names(&set(&["unix:uid:3"])).is_empty());
}

#[test]
fn a_change_concerns_those_who_match_the_entry_before_or_after() {
    let (one, two) = (set(&["unix:uid:1"]), set(&["unix:uid:2"]));
    let (a, b) = (
        served(entry("a", &["unix:uid:1"])),
        served(entry("b", &["unix:uid:2"])),
    );
    let before = snapshot(&[a.clone(), b.clone()]);
    assert!(
        snapshot(&[a.clone(), b.clone()])
            .changes_since(&before)
            .is_empty()
    );

    let concerned = |after: &Snapshot| {
        let changes = after.changes_since(&before);
        (
            changes.concern(&one, &before, after),
            changes.concern(&two, &before, after),
        )
    };
    let rotated = ServedEntry {
        svid: Some(svid()),
        ..a.clone()
    };
    assert_eq!(
        concerned(&snapshot(&[rotated, b.clone()])),
        (true, false),
        "SVID rotated"
    );
    assert_eq!(
        concerned(&snapshot(std::slice::from_ref(&b))),
        (true, false),
        "entry removed"
    );
    let moved = ServedEntry {
        entry: Arc::new(entry("a", &["unix:uid:2"])),
        ..a.clone()
    };
    assert_eq!(
        concerned(&snapshot(&[moved, b.clone()])),
        (true, true),
        "selectors changed"
    );
    let new = served(entry("0", &["unix:uid:2"]));
    assert_eq!(
        concerned(&snapshot(&[new, a.clone(), b.clone()])),
        (false, true),
        "entry added in front"
    );
    let last = served(entry("z", &["unix:uid:1"]));
    assert_eq!(
        concerned(&snapshot(&[a.clone(), b.clone(), last])),
        (true, false),
        "entry added at the end"
    );

    let revised = AuthorizedEntry {
        revision: 9,
        ..entry("a", &["unix:uid:1"])
    };
    let revised = ServedEntry {
        entry: Arc::new(revised),
        ..a.clone()
    };
    assert_eq!(
        concerned(&snapshot(&[revised, b.clone()])),
        (false, false),
        "a revision alone, before its SVID is signed"
    );

    let all = [a, b];
    let roots = with_bundles(&all, bundle("example.org", 2), &[]);
    assert_eq!(concerned(&roots), (true, true), "own bundle changed");
    let earlier = Snapshot::new(
        bundle("example.org", 1),
        all,
        BTreeMap::new(),
        EntrySource::Disk,
    );
    assert_eq!(concerned(&earlier), (true, true), "what is known changed");
}

#[test]
fn a_foreign_bundle_concerns_those_who_federate_with_it() {
    let td = TrustDomain::new("one.org").unwrap();
    let federating = AuthorizedEntry {
        federates_with: vec![td.clone()],
        ..entry("a", &["unix:uid:1"])
    };
    let entries = [served(federating), served(entry("b", &["unix:uid:2"]))];
    let with = |sequence_number: Option<u64>| {
        let foreign: Vec<_> = sequence_number
            .map(|n| bundle("one.org", n))
            .into_iter()
            .collect();
        with_bundles(&entries, bundle("example.org", 1), &foreign)
    };
    for (before, after) in [(None, Some(1)), (Some(1), Some(2)), (Some(1), None)] {
        let (before, after) = (with(before), with(after));
        let changes = after.changes_since(&before);
        assert!(changes.concern(&set(&["unix:uid:1"]), &before, &after));
        assert!(!changes.concern(&set(&["unix:uid:2"]), &before, &after));
    }
}

/// The index by one selector must find exactly what looking at every entry finds.
#[test]
fn the_index_finds_what_a_full_search_finds() {
    let pool = [
        "unix:uid:1",
        "unix:gid:1",
        "unix:path:/a",
        "unix:path:/b",
        "k8s:ns:x",
    ];
    let subset = |bits: usize| -> Vec<&str> {
        pool.iter()
            .enumerate()
            .filter(|(i, _)| bits >> i & 1 == 1)
            .map(|(_, s)| *s)
            .collect()
    };
    let entries: Vec<_> = (1..32_usize)
        .map(|bits| served(entry(&format!("e{bits:02}"), &subset(bits))))
        .collect();
    let snapshot = snapshot(&entries);
    for bits in 0..32 {
        let caller = set(&subset(bits));
        let found: Vec<&EntryId> = snapshot
            .matching(&caller)
            .iter()
            .map(|s| &s.entry.id)
            .collect();
        let all: Vec<&EntryId> = entries
            .iter()
            .filter(|s| s.entry.selectors.is_subset_of(&caller))
            .map(|s| &s.entry.id)
            .collect();
        assert_eq!(found, all, "{caller:?}");
    }
}
