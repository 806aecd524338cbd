//! What is held, what is due, and what has to go.

use std::time::Duration;

use countersign_identity::{Selector, SelectorSet};

use super::super::snapshot::WorkloadAnswer;
use super::*;
use crate::entry::tests::entry;
use crate::test_ca::{TestCa, trust_domain};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const TTL: Duration = Duration::from_secs(3600);

/// So many seconds after the start, by both clocks.
fn at(secs: u64) -> Moment {
    thread_local!(static STEADY: Instant = Instant::now());
    let span = Duration::from_secs(secs);
    Moment {
        wall: START.after(span),
        steady: STEADY.with(|start| *start) + span,
    }
}

fn entries(all: &[AuthorizedEntry]) -> Entries {
    all.iter()
        .map(|e| (e.id.clone(), Arc::new(e.clone())))
        .collect()
}

fn ids(due: &[DueEntry]) -> Vec<&str> {
    due.iter().map(|due| due.entry.id.as_str()).collect()
}

fn nobody() -> Subscribed {
    Subscribed::new()
}

fn subscribed(ids: &[&str]) -> Subscribed {
    ids.iter().map(|id| EntryId::new(id).unwrap()).collect()
}

fn caller() -> SelectorSet {
    std::iter::once(Selector::parse("unix:uid:1").unwrap()).collect()
}

fn setup(all: &[AuthorizedEntry]) -> (TestCa, SvidCache) {
    setup_with(1000, all)
}

fn setup_with(max_svids: usize, all: &[AuthorizedEntry]) -> (TestCa, SvidCache) {
    let ca = TestCa::new(START);
    let config = CacheConfig {
        max_svids,
        rotation: Rotation::default(),
    };
    let mut cache = SvidCache::new(Arc::new(ca.bundle()), config);
    cache.replace_entries(entries(all));
    (ca, cache)
}

#[test]
fn a_new_entry_is_due_at_once_and_then_at_half_life() {
    let a = entry("a", &["unix:uid:1"]);
    let (ca, mut cache) = setup(std::slice::from_ref(&a));
    assert_eq!(ids(&cache.due(at(0), &nobody())), ["a"]);
    assert!(cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0)));
    assert!(cache.due(at(0), &nobody()).is_empty());
    // 3,610 s of life with the back-date; half of it is left 1,795 s from now.
    assert_eq!(
        cache.next_due(at(0), &nobody(), false),
        Some(at(1795).steady)
    );
    assert!(cache.due(at(1794), &nobody()).is_empty());
    assert_eq!(ids(&cache.due(at(1795), &nobody())), ["a"]);
}

#[test]
fn a_changed_entry_is_due_at_once_and_served_meanwhile() {
    let a = entry("a", &["unix:uid:1"]);
    let (ca, mut cache) = setup(std::slice::from_ref(&a));
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    let updated = AuthorizedEntry {
        revision: 1,
        ..a.clone()
    };
    cache.replace_entries(entries(std::slice::from_ref(&updated)));
    assert_eq!(ids(&cache.due(at(0), &nobody())), ["a"]);
    assert!(matches!(
        cache.snapshot(START).answer(&caller()),
        WorkloadAnswer::Identities(_)
    ));

    // An answer to the request from before the update does not settle it.
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    assert_eq!(ids(&cache.due(at(0), &nobody())), ["a"]);
    cache.insert(&updated, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    assert!(cache.due(at(0), &nobody()).is_empty());
}

#[test]
fn an_entry_with_a_new_spiffe_id_loses_its_svid() {
    let a = entry("a", &["unix:uid:1"]);
    let (ca, mut cache) = setup(std::slice::from_ref(&a));
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    let other = AuthorizedEntry {
        spiffe_id: trust_domain().id_with_path("/b").unwrap(),
        revision: 1,
        ..a.clone()
    };
    cache.replace_entries(entries(&[other]));
    assert!(matches!(
        cache.snapshot(START).answer(&caller()),
        WorkloadAnswer::NotSigned
    ));
    assert!(
        !cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0)),
        "signed for who it was"
    );
    cache.replace_entries(Entries::new());
    assert!(
        !cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0)),
        "the entry is gone"
    );
}

#[test]
fn an_expired_svid_is_not_served() {
    let a = entry("a", &["unix:uid:1"]);
    let (ca, mut cache) = setup(std::slice::from_ref(&a));
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    assert!(matches!(
        cache.snapshot(at(3600).wall).answer(&caller()),
        WorkloadAnswer::Identities(_)
    ));
    assert!(matches!(
        cache.snapshot(at(3601).wall).answer(&caller()),
        WorkloadAnswer::NotSigned
    ));
}

#[test]
fn on_demand_svids_are_due_for_waiting_callers_only() {
    let demand = AuthorizedEntry {
        delivery: Delivery::OnDemand,
        ..entry("d", &["unix:uid:1"])
    };
    let stored = AuthorizedEntry {
        delivery: Delivery::Stored,
        ..entry("s", &["unix:uid:1"])
    };
    let (_, cache) = setup(&[demand, stored]);
    assert!(cache.due(at(0), &nobody()).is_empty());
    assert_eq!(cache.next_due(at(0), &nobody(), false), None);
    assert_eq!(ids(&cache.due(at(0), &subscribed(&["d"]))), ["d"]);
}

#[test]
fn what_chains_to_a_tainted_or_removed_authority_is_due_at_once() {
    let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
    let (old, mut cache) = setup(&[a.clone(), b.clone()]);
    let new = TestCa::new(START);
    cache.insert(&a, old.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    cache.insert(&b, new.issue(&b.spiffe_id, TTL, START), 0.0, at(0));

    let mut bundle = old.bundle();
    bundle.x509_authorities.push(new.authority().clone());
    assert!(cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), at(0)));
    assert!(
        !cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), at(0)),
        "the same again"
    );
    assert!(cache.due(at(0), &nobody()).is_empty());

    bundle.x509_authorities[0] = bundle.x509_authorities[0].with_tainted(true);
    cache.replace_bundles(Arc::new(bundle.clone()), BTreeMap::new(), at(0));
    assert_eq!(ids(&cache.due(at(0), &nobody())), ["a"]);

    bundle.x509_authorities.pop();
    cache.replace_bundles(Arc::new(bundle), BTreeMap::new(), at(0));
    assert_eq!(ids(&cache.due(at(0), &nobody())), ["a", "b"]);
}

#[test]
fn what_is_missing_comes_before_what_is_only_old() {
    let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
    let (ca, mut cache) = setup(&[a.clone(), b]);
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    assert_eq!(ids(&cache.due(at(2000), &nobody())), ["b", "a"]);
}

#[test]
fn svids_of_a_tainted_authority_are_due_apart() {
    let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
    let (ca, mut cache) = setup(&[a.clone(), b]);
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    let mut bundle = ca.bundle();
    bundle.x509_authorities[0] = bundle.x509_authorities[0].with_tainted(true);
    cache.replace_bundles(Arc::new(bundle), BTreeMap::new(), at(0));
    let why: Vec<_> = cache
        .due(at(0), &nobody())
        .iter()
        .map(|due| due.reason)
        .collect();
    assert_eq!(why, [RenewReason::Missing, RenewReason::Tainted]);
    assert_eq!(cache.next_due(at(0), &nobody(), true), Some(at(0).steady));
}

fn three() -> Vec<AuthorizedEntry> {
    ["a", "b", "c"].map(|id| entry(id, &["unix:uid:1"])).into()
}

fn hold_all(cache: &mut SvidCache, ca: &TestCa, due: &[DueEntry]) {
    for due in due {
        let svid = ca.issue(&due.entry.spiffe_id, TTL, START);
        assert!(cache.insert(&due.entry, svid, 0.0, at(0)));
    }
}

fn held(cache: &SvidCache) -> Vec<&str> {
    cache
        .current()
        .map(|(entry, _)| entry.id.as_str())
        .collect()
}

#[test]
fn prefetching_stops_at_the_limit_and_callers_are_served() {
    let (ca, mut cache) = setup_with(2, &three());
    let due = cache.due(at(0), &nobody());
    assert_eq!(ids(&due), ["a", "b"]);
    hold_all(&mut cache, &ca, &due);
    assert!(cache.due(at(0), &nobody()).is_empty());

    let due = cache.due(at(0), &subscribed(&["c"]));
    assert_eq!(ids(&due), ["c"], "who has a stream is served");
    hold_all(&mut cache, &ca, &due);
    assert!(cache.evict(&subscribed(&["c"]), at(0)));
    assert_eq!(held(&cache).len(), 2);
    assert!(held(&cache).contains(&"c"));
    assert!(!cache.evict(&subscribed(&["c"]), at(0)), "enough are gone");
}

#[test]
fn the_least_recently_asked_for_is_evicted_but_no_stream() {
    let (ca, mut cache) = setup_with(2, &three());
    let all = subscribed(&["a", "b", "c"]);
    let due = cache.due(at(0), &all);
    hold_all(&mut cache, &ca, &due);
    assert!(!cache.evict(&all, at(0)), "the limit is soft");
    assert_eq!(held(&cache), ["a", "b", "c"]);
    cache.evict(&subscribed(&["b", "c"]), at(0));
    cache.evict(&subscribed(&["c"]), at(0));
    assert_eq!(held(&cache), ["b", "c"], "a was asked for longest ago");
    assert!(cache.due(at(0), &subscribed(&["c"])).is_empty());
}

#[test]
fn an_expired_on_demand_svid_goes_with_its_caller() {
    let demand = AuthorizedEntry {
        delivery: Delivery::OnDemand,
        ..entry("d", &["unix:uid:1"])
    };
    let (ca, mut cache) = setup(std::slice::from_ref(&demand));
    let with = subscribed(&["d"]);
    let due = cache.due(at(0), &with);
    hold_all(&mut cache, &ca, &due);
    assert!(
        !cache.evict(&nobody(), at(3600)),
        "still valid: kept for the next caller"
    );
    assert!(!cache.evict(&with, at(3601)));
    assert!(cache.evict(&nobody(), at(3601)));
}

#[test]
fn a_clock_set_back_neither_delays_renewals_nor_revives_svids() {
    let a = entry("a", &["unix:uid:1"]);
    let (ca, mut cache) = setup(std::slice::from_ref(&a));
    cache.insert(&a, ca.issue(&a.spiffe_id, TTL, START), 0.0, at(0));
    let set_back = Moment {
        wall: START.before(Duration::from_secs(7200)),
        ..at(1795)
    };
    assert_eq!(ids(&cache.due(set_back, &nobody())), ["a"]);
    let set_forward = Moment {
        wall: START.after(Duration::from_secs(7200)),
        ..at(1)
    };
    assert_eq!(ids(&cache.due(set_forward, &nobody())), ["a"]);
    assert_eq!(cache.valid(set_forward.wall), 0);
    assert_eq!(cache.valid(START), 1, "and back: it is as good as before");
}

#[test]
fn restored_svids_need_an_authority_in_the_bundle() {
    let (a, b, c) = (
        entry("a", &["unix:uid:1"]),
        entry("b", &["unix:uid:1"]),
        entry("c", &["unix:uid:1"]),
    );
    let (ca, mut cache) = setup(&[]);
    let stranger = TestCa::new(START);
    let kept = [
        (a.clone(), ca.issue(&a.spiffe_id, TTL, START)),
        (b.clone(), stranger.issue(&b.spiffe_id, TTL, START)),
        (
            c.clone(),
            ca.issue(&c.spiffe_id, Duration::from_secs(5), START),
        ),
    ];
    cache.restore(kept, BTreeMap::new(), at(60));
    assert_eq!(held(&cache), ["a"]);
    assert!(matches!(
        cache.snapshot(at(60).wall).answer(&caller()),
        WorkloadAnswer::Identities(_)
    ));
}
