use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use countersign_identity::entry::AdditionalAttributes;
use countersign_identity::node::Credential;
use countersign_identity::{Selector, SelectorSet};
use proptest::prelude::*;

use super::*;

mod invalidation;
mod outage;

fn td() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

fn id(path: &str) -> SpiffeId {
    td().id_with_path(path).unwrap()
}

fn selectors(numbers: &[u8]) -> SelectorSet {
    numbers
        .iter()
        .map(|n| Selector::new("s", &n.to_string()).unwrap())
        .collect()
}

pub(crate) fn entry(name: &str, path: &str, parent: &str, with: &[u8]) -> Entry {
    Entry {
        id: EntryId::new(name).unwrap(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors(with),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        revision_number: 0,
        created_at: UnixTime::from_secs(1),
        hint: String::new(),
        attributes: AdditionalAttributes::default(),
    }
}

fn node(path: &str, with: &[u8]) -> Node {
    Node {
        id: id(path),
        attestation_type: "join_token".into(),
        current: Some(Credential {
            serial: "1".into(),
            expires_at: UnixTime::from_secs(10),
        }),
        pending: None,
        can_reattest: false,
        selectors: selectors(with),
        agent_version: String::new(),
    }
}

/// A index that follows a store in memory.
pub(crate) async fn following() -> (Store, Index) {
    let store = Store::in_memory();
    let index = Index::load(store.clone()).await.unwrap();
    tokio::spawn(index.follow());
    (store, index)
}

fn names(records: &[EntryRecord]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record.value.id.as_str())
        .collect()
}

async fn create(store: &Store, index: &Index, entries: &[Entry]) {
    let created = store.entries_create(entries).await.unwrap();
    for result in index.visible(created).await.unwrap() {
        result.unwrap();
    }
}

#[tokio::test]
async fn a_write_is_read_once_it_is_visible() {
    let (store, index) = following().await;
    create(&store, &index, &[entry("a", "/a", "/p", &[1])]).await;
    assert_eq!(index.entry("a").unwrap().value.spiffe_id, id("/a"));
    let ids = [EntryId::new("a").unwrap()];
    let moved = store
        .entries_update(&ids, |_, old| {
            Ok::<_, ()>(Entry {
                parent_id: id("/q"),
                ..old.clone()
            })
        })
        .await
        .unwrap();
    index.visible(moved).await.unwrap()[0].as_ref().unwrap();
    let below = |parent| EntryFilter {
        parent_id: Some(id(parent)),
        ..EntryFilter::default()
    };
    assert_eq!(index.count_entries(&below("/p")), 0);
    assert_eq!(index.count_entries(&below("/q")), 1);
    let gone = store.entries_delete(&ids).await.unwrap();
    index.visible(gone).await.unwrap()[0].unwrap();
    assert_eq!(index.entry("a"), None);
    assert_eq!(index.count_entries(&EntryFilter::default()), 0);
}

#[tokio::test]
async fn existing_objects_are_loaded() {
    let store = Store::in_memory();
    let entries: Vec<Entry> = (0..2_500)
        .map(|i| entry(&format!("e{i}"), &format!("/{i}"), "/p", &[1]))
        .collect();
    drop(store.entries_create(&entries).await.unwrap());
    let agent = node("/spire/agent/a", &[1]);
    drop(store.node_attested(&agent).await.unwrap());
    drop(store.bundle_append(&td(), &[], &[]).await.unwrap());
    let index = Index::load(store.clone()).await.unwrap();
    assert_eq!(index.count_entries(&EntryFilter::default()), 2_500);
    assert_eq!(index.count_nodes(&NodeFilter::default()), 1);
    assert_eq!(
        (index.count_bundles(), index.bundle("td").is_some()),
        (1, true)
    );
    // In the order in which they were made, not by name.
    let first = index.entries(&EntryFilter::default(), Page::After(Seq::ZERO, 3));
    assert_eq!(names(&first), ["e0", "e1", "e2"]);
}

#[tokio::test]
async fn pages_follow_creation_and_survive_deletion() {
    let (store, index) = following().await;
    let entries: Vec<Entry> = (0..7)
        .map(|i| entry(&format!("e{}", 9 - i), &format!("/{i}"), "/p", &[1]))
        .collect();
    create(&store, &index, &entries).await;
    let all = EntryFilter::default();
    let page = index.entries(&all, Page::After(Seq::ZERO, 3));
    assert_eq!(names(&page), ["e9", "e8", "e7"]);
    let last = page[2].created;
    let gone = store
        .entries_delete(&[EntryId::new("e7").unwrap()])
        .await
        .unwrap();
    index.visible(gone).await.unwrap()[0].unwrap();
    assert_eq!(
        names(&index.entries(&all, Page::After(last, 3))),
        ["e6", "e5", "e4"]
    );
    let below = EntryFilter {
        parent_id: Some(id("/p")),
        ..EntryFilter::default()
    };
    assert_eq!(
        names(&index.entries(&below, Page::After(last, 3))),
        ["e6", "e5", "e4"]
    );
    assert_eq!(index.entries(&all, Page::All).len(), 6);
}

#[tokio::test]
async fn an_admin_is_made_by_an_entry() {
    let (store, index) = following().await;
    let admin = Entry {
        admin: true,
        ..entry("a", "/admin", "/p", &[1])
    };
    let downstream = Entry {
        downstream: true,
        ..entry("d", "/down", "/p", &[1])
    };
    create(
        &store,
        &index,
        &[admin, downstream, entry("n", "/none", "/p", &[1])],
    )
    .await;
    assert!(index.is_admin(&id("/admin")) && !index.is_downstream(&id("/admin")));
    assert!(index.is_downstream(&id("/down")) && !index.is_admin(&id("/down")));
    assert!(!index.is_admin(&id("/none")) && !index.is_admin(&id("/unknown")));
}

#[tokio::test]
async fn expired_entries_are_found() {
    let (store, index) = following().await;
    let until = |name: &str, secs| Entry {
        expires_at: Some(UnixTime::from_secs(secs)),
        ..entry(name, &format!("/{name}"), "/p", &[1])
    };
    create(
        &store,
        &index,
        &[until("a", 5), until("b", 6), entry("c", "/c", "/p", &[1])],
    )
    .await;
    let expired = |secs| index.expired_entries(UnixTime::from_secs(secs));
    assert!(
        expired(5).is_empty(),
        "an entry is valid up to its last second"
    );
    assert_eq!(expired(6), [EntryId::new("a").unwrap()]);
    assert_eq!(expired(100).len(), 2);
}

#[tokio::test]
async fn waiting_ends_when_the_index_stops_following() {
    let store = Store::in_memory();
    let index = Index::load(store).await.unwrap();
    let following = tokio::spawn(index.follow());
    following.abort();
    let _ = following.await;
    assert_eq!(
        index.visible(Pending::new((), Seq::new(7))).await,
        Err(Behind::Stopped)
    );
}

/// The specification's words, without any index.
fn naive_crawl(entries: &[Entry], nodes: &[Node], agent: &SpiffeId) -> BTreeSet<String> {
    fn visit(
        entries: &[Entry],
        parent: &SpiffeId,
        seen: &mut HashSet<SpiffeId>,
        found: &mut BTreeSet<String>,
    ) {
        if !seen.insert(parent.clone()) {
            return;
        }
        for entry in entries.iter().filter(|e| e.parent_id == *parent) {
            found.insert(entry.id.to_string());
            visit(entries, &entry.spiffe_id, seen, found);
        }
    }
    let mut found = BTreeSet::new();
    let mut seen = HashSet::new();
    visit(entries, agent, &mut seen, &mut found);
    let selectors = nodes
        .iter()
        .find(|n| n.id == *agent)
        .map(|n| n.selectors.clone());
    for alias in entries.iter().filter(|e| e.parent_id.is_server()) {
        if selectors
            .as_ref()
            .is_some_and(|has| alias.selectors.is_subset_of(has))
        {
            visit(entries, &alias.spiffe_id, &mut seen, &mut found);
        }
    }
    found
}

const PARENTS: [&str; 8] = [
    "/spire/server",
    "/spire/agent/a",
    "/spire/agent/b",
    "/w/0",
    "/w/1",
    "/w/2",
    "/w/3",
    "/w/4",
];

prop_compose! {
    fn any_entry()(
        path in 0..5_u8,
        parent in 0..PARENTS.len(),
        with in proptest::collection::btree_set(0..4_u8, 1..4),
        others in proptest::collection::btree_set(0..3_u8, 0..3),
        hint in 0..2_u8,
        downstream in any::<bool>(),
    ) -> Entry {
        let with: Vec<u8> = with.into_iter().collect();
        let federates_with =
            others.into_iter().map(|n| TrustDomain::new(&format!("o{n}")).unwrap()).collect();
        let name = format!("{path}-{parent}-{with:?}").replace(['[', ']', ' ', ','], "_");
        Entry {
            federates_with,
            downstream,
            hint: hint.to_string(),
            ..entry(&name, &format!("/w/{path}"), PARENTS[parent], &with)
        }
    }
}

fn any_match() -> impl Strategy<Value = Match> {
    prop_oneof![
        Just(Match::Exact),
        Just(Match::Subset),
        Just(Match::Superset),
        Just(Match::Any)
    ]
}

prop_compose! {
    fn any_filter()(
        path in proptest::option::of(0..5_u8),
        parent in proptest::option::of(0..PARENTS.len()),
        with in proptest::option::of((any_match(), proptest::collection::btree_set(0..4_u8, 1..4))),
        others in proptest::option::of((any_match(), proptest::collection::btree_set(0..3_u8, 1..3))),
        hint in proptest::option::of(0..2_u8),
        downstream in proptest::option::of(any::<bool>()),
    ) -> EntryFilter {
        EntryFilter {
            spiffe_id: path.map(|n| id(&format!("/w/{n}"))),
            parent_id: parent.map(|n| id(PARENTS[n])),
            selectors: with.map(|(how, set)| (how, selectors(&set.into_iter().collect::<Vec<_>>()))),
            federates_with: others.map(|(how, set)| {
                (how, set.into_iter().map(|n| TrustDomain::new(&format!("o{n}")).unwrap()).collect())
            }),
            hint: hint.map(|n| n.to_string()),
            downstream,
        }
    }
}

/// The table of the specification, over plain sets.
fn naive_match<T: Ord>(how: Match, has: &BTreeSet<T>, asked: &BTreeSet<T>) -> bool {
    match how {
        Match::Exact => has == asked,
        Match::Subset => has.is_subset(asked) && !has.is_disjoint(asked),
        Match::Superset => has.is_superset(asked),
        Match::Any => !has.is_disjoint(asked),
    }
}

fn naive_wants(filter: &EntryFilter, entry: &Entry) -> bool {
    let set = |s: &SelectorSet| s.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    if filter
        .spiffe_id
        .as_ref()
        .is_some_and(|id| *id != entry.spiffe_id)
        || filter
            .parent_id
            .as_ref()
            .is_some_and(|id| *id != entry.parent_id)
        || filter.hint.as_ref().is_some_and(|hint| *hint != entry.hint)
        || filter.downstream.is_some_and(|d| d != entry.downstream)
    {
        return false;
    }
    if let Some((how, asked)) = &filter.selectors
        && !naive_match(*how, &set(&entry.selectors), &set(asked))
    {
        return false;
    }
    let federates: BTreeSet<_> = entry.federates_with.iter().cloned().collect();
    filter
        .federates_with
        .as_ref()
        .is_none_or(|(how, asked)| naive_match(*how, &federates, asked))
}

/// Tables after these entries were put, some of them put again in another form and some removed.
fn tables_of(entries: &[Entry], removed: &[usize]) -> (Tables, Vec<Entry>) {
    let mut tables = Tables::default();
    let mut left: BTreeMap<String, Entry> = BTreeMap::new();
    let mut made: BTreeMap<String, Seq> = BTreeMap::new();
    for (n, entry) in entries.iter().enumerate() {
        let name = entry.id.to_string();
        let created = *made.entry(name.clone()).or_insert(Seq::new(n as u64 + 1));
        tables.entries.put(Record {
            value: entry.clone(),
            created,
        });
        left.insert(name, entry.clone());
    }
    for n in removed {
        if let Some(entry) = entries.get(*n) {
            tables.entries.remove(&entry.id);
            left.remove(entry.id.as_str());
        }
    }
    (tables, left.into_values().collect())
}

proptest! {
    #[test]
    fn filters_match_like_a_naive_filter(
        entries in proptest::collection::vec(any_entry(), 0..25),
        removed in proptest::collection::vec(0..25_usize, 0..5),
        filter in any_filter(),
        portion in 1..5_usize,
        wanted in 1..5_usize,
    ) {
        let (tables, left) = tables_of(&entries, &removed);
        let mut got = BTreeSet::new();
        let mut after = Seq::ZERO;
        loop {
            let part = tables.entries.after(&filter, after, Limit { candidates: portion, wanted });
            got.extend(part.found.iter().map(|r| r.value.id.to_string()));
            match part.more_after {
                Some(seq) => {
                    prop_assert!(seq > after);
                    after = seq;
                }
                None => break,
            }
        }
        let want: BTreeSet<String> =
            left.iter().filter(|e| naive_wants(&filter, e)).map(|e| e.id.to_string()).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn the_crawl_finds_what_a_naive_crawl_finds(
        entries in proptest::collection::vec(any_entry(), 0..25),
        removed in proptest::collection::vec(0..25_usize, 0..5),
        with in proptest::collection::vec(0..4_u8, 0..4),
    ) {
        let (mut tables, left) = tables_of(&entries, &removed);
        let node = node("/spire/agent/a", &with);
        tables.nodes.put(Record { value: node.clone(), created: Seq::new(1) });
        for agent in ["/spire/agent/a", "/spire/agent/b"] {
            let agent = id(agent);
            let want = naive_crawl(&left, std::slice::from_ref(&node), &agent);
            let found = crawl::descendants(&tables, &agent);
            let got: BTreeSet<String> = found.iter().map(|r| r.value.id.to_string()).collect();
            prop_assert_eq!(found.len(), got.len(), "an entry came twice");
            prop_assert_eq!(&got, &want);
            for entry in &left {
                let record = tables.entries.by_id(entry.id.as_str()).unwrap();
                let allowed = crawl::has_ancestor(&tables, record, &agent);
                prop_assert_eq!(allowed, want.contains(entry.id.as_str()), "{:?}", entry.id);
            }
        }
    }
}

#[tokio::test]
async fn nodes_are_filtered_by_everything_given() {
    let (store, index) = following().await;
    let banned = node("/spire/agent/b", &[1]);
    let other = Node {
        attestation_type: "x509pop".into(),
        can_reattest: true,
        ..node("/spire/agent/c", &[1, 2])
    };
    for node in [&node("/spire/agent/a", &[]), &banned, &other] {
        drop(store.node_attested(node).await.unwrap());
    }
    let banned_now = store.node_banned(&banned.id).await.unwrap();
    index.visible(banned_now).await.unwrap();
    let none = NodeFilter::default();
    let matching = |filter: NodeFilter| {
        let nodes = index.nodes(&filter, Page::All);
        nodes
            .iter()
            .map(|r| r.value.id.path().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(matching(none.clone()).len(), 3);
    assert_eq!(
        matching(NodeFilter {
            banned: Some(true),
            ..none.clone()
        }),
        ["/spire/agent/b"]
    );
    assert_eq!(
        matching(NodeFilter {
            can_reattest: Some(true),
            ..none.clone()
        }),
        ["/spire/agent/c"]
    );
    let kind = NodeFilter {
        attestation_type: Some("join_token".into()),
        ..none.clone()
    };
    assert_eq!(matching(kind), ["/spire/agent/a", "/spire/agent/b"]);
    let before = |secs| NodeFilter {
        expires_before: Some(UnixTime::from_secs(secs)),
        ..none.clone()
    };
    assert_eq!(matching(before(10)).len(), 0);
    assert_eq!(matching(before(11)), ["/spire/agent/a", "/spire/agent/c"]);
    let exact = NodeFilter {
        selectors: Some((Match::Exact, selectors(&[1, 2]))),
        ..none
    };
    assert_eq!(matching(exact), ["/spire/agent/c"]);
}

#[tokio::test]
async fn a_similar_entry_is_found() {
    let (store, index) = following().await;
    create(&store, &index, &[entry("a", "/a", "/p", &[1, 2])]).await;
    let alike = Entry {
        x509_svid_ttl: Some(Duration::from_secs(1)),
        ..entry("b", "/a", "/p", &[2, 1])
    };
    assert_eq!(index.similar_entry(&alike).unwrap().value.id.as_str(), "a");
    assert_eq!(index.similar_entry(&entry("b", "/a", "/p", &[1])), None);
}
