//! Which nodes a change invalidates, held against the crawl of each node before and after it.

use std::collections::HashMap;

use super::*;
use crate::index::invalidation::{Invalidation, NodeSet};

/// One change of the graph.
#[derive(Clone, Debug)]
enum Step {
    /// A new entry, or one that replaces an entry of the same ID.
    Put(Entry),
    /// The n-th entry becomes this one.
    Become(usize, Entry),
    /// The n-th entry goes.
    Remove(usize),
    /// A node is attested with these selectors, or forgotten.
    Node(usize, Option<Vec<u8>>),
}

const NODES: [&str; 3] = ["/spire/agent/a", "/spire/agent/b", "/spire/agent/c"];

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_entry().prop_map(Step::Put),
        3 => (0..20_usize, any_entry()).prop_map(|(n, entry)| Step::Become(n, entry)),
        2 => (0..20_usize).prop_map(Step::Remove),
        1 => (
            0..NODES.len(),
            proptest::option::of(proptest::collection::vec(0..4_u8, 0..4))
        )
            .prop_map(|(n, with)| Step::Node(n, with)),
    ]
}

/// A graph that grows by steps.
#[derive(Default)]
struct Graph {
    tables: Tables,
    made: HashMap<String, Seq>,
    last: u64,
}

impl Graph {
    fn next(&mut self, name: &str) -> Seq {
        self.last += 1;
        let last = Seq::new(self.last);
        *self.made.entry(name.to_owned()).or_insert(last)
    }

    fn nth(&self, n: usize) -> Option<Entry> {
        let everything = Limit {
            candidates: usize::MAX,
            wanted: usize::MAX,
        };
        let all = self
            .tables
            .entries
            .after(&EntryFilter::default(), Seq::ZERO, everything)
            .found;
        let count = all.len().max(1);
        all.get(n % count).map(|record| record.value.clone())
    }

    fn change(&mut self, step: Step) -> Option<Changed> {
        Some(match step {
            Step::Put(entry) => self.put(entry),
            Step::Become(n, entry) => {
                let id = self.nth(n)?.id;
                self.put(Entry { id, ..entry })
            }
            Step::Remove(n) => Changed::Entry(self.nth(n)?.id, None),
            Step::Node(n, with) => {
                let name = NODES[n];
                let created = self.next(name);
                let record = with.map(|with| Record {
                    value: node(name, &with),
                    created,
                });
                Changed::Node(id(name), record)
            }
        })
    }

    fn put(&mut self, entry: Entry) -> Changed {
        let created = self.next(entry.id.as_str());
        let id = entry.id.clone();
        Changed::Entry(
            id,
            Some(Record {
                value: entry,
                created,
            }),
        )
    }

    fn apply(&mut self, steps: Vec<Step>) -> Invalidated {
        let mut invalidation = Invalidation::default();
        for step in steps {
            if let Some(change) = self.change(step) {
                self.tables.apply(change, &mut invalidation);
            }
        }
        invalidation.finish()
    }

    /// The entries that each node may have.
    fn crawls(&self) -> Vec<BTreeMap<String, Entry>> {
        let crawl = |node: &&str| {
            crawl::descendants(&self.tables, &id(node))
                .into_iter()
                .map(|record| (record.value.id.to_string(), record.value.clone()))
                .collect()
        };
        NODES.iter().map(crawl).collect()
    }
}

/// The nodes whose crawls differ.
fn differing(
    before: &[BTreeMap<String, Entry>],
    after: &[BTreeMap<String, Entry>],
) -> HashSet<SpiffeId> {
    let pairs = NODES.iter().zip(before.iter().zip(after));
    pairs
        .filter(|(_, (before, after))| before != after)
        .map(|(node, _)| id(node))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_node_whose_crawl_differs_is_invalidated(
        start in proptest::collection::vec(any_step(), 0..25),
        batch in proptest::collection::vec(any_step(), 1..8),
    ) {
        let mut graph = Graph::default();
        graph.apply(start);
        let before = graph.crawls();
        let invalidated = graph.apply(batch);
        for node in differing(&before, &graph.crawls()) {
            prop_assert!(invalidated.entries.contains(&node), "{node} is not in {invalidated:?}");
        }
        prop_assert!(invalidated.bundles.is_empty());
    }

    #[test]
    fn a_single_entry_invalidates_no_other_node(
        start in proptest::collection::vec(any_step(), 0..25),
        step in any_step(),
    ) {
        let mut graph = Graph::default();
        graph.apply(start);
        let is_alias = |change: &Option<Changed>, graph: &Graph| match change {
            Some(Changed::Entry(id, new)) => {
                let old = graph.tables.entries.by_id(id.as_str());
                old.is_some_and(|old| old.value.is_node_alias())
                    || new.as_ref().is_some_and(|new| new.value.is_node_alias())
            }
            _ => true,
        };
        let change = graph.change(step);
        prop_assume!(!is_alias(&change, &graph));
        let before = graph.crawls();
        let mut invalidation = Invalidation::default();
        graph.tables.apply(change.unwrap(), &mut invalidation);
        let want = differing(&before, &graph.crawls());
        prop_assert_eq!(invalidation.finish().entries, NodeSet::These(want));
    }

    #[test]
    fn a_foreign_bundle_invalidates_the_nodes_that_need_it(
        start in proptest::collection::vec(any_step(), 0..25),
        other in 0..3_u8,
    ) {
        let mut graph = Graph::default();
        graph.apply(start);
        let other = TrustDomain::new(&format!("o{other}")).unwrap();
        let record = Record { value: Bundle::empty(other.clone()), created: Seq::new(9_999) };
        let mut invalidation = Invalidation::default();
        graph.tables.apply(Changed::Bundle(other.clone(), Some(record)), &mut invalidation);
        let needs = |crawl: &BTreeMap<String, Entry>| {
            crawl.values().any(|entry| entry.federates_with.contains(&other))
        };
        let crawls = graph.crawls();
        let pairs = NODES.iter().zip(&crawls);
        let want = pairs.filter(|(_, crawl)| needs(crawl)).map(|(node, _)| id(node)).collect();
        let invalidated = invalidation.finish();
        prop_assert_eq!(invalidated.bundles, NodeSet::These(want));
        prop_assert!(invalidated.entries.is_empty());
    }
}

fn changed_node(n: usize, with: &[u8]) -> Changed {
    let value = node(&format!("/spire/agent/{n}"), with);
    let created = Seq::new(10_000 + n as u64);
    Changed::Node(value.id.clone(), Some(Record { value, created }))
}

fn changed_entry(entry: Entry, created: u64) -> Changed {
    let created = Seq::new(created);
    Changed::Entry(
        entry.id.clone(),
        Some(Record {
            value: entry,
            created,
        }),
    )
}

fn applied(tables: &mut Tables, changes: impl IntoIterator<Item = Changed>) -> Invalidated {
    let mut invalidation = Invalidation::default();
    for change in changes {
        tables.apply(change, &mut invalidation);
    }
    invalidation.finish()
}

#[test]
fn more_than_half_of_the_nodes_are_all_nodes() {
    let mut tables = Tables::default();
    let nodes = (0..40).map(|n| changed_node(n, if n < 19 { &[1, 2] } else { &[2] }));
    assert!(applied(&mut tables, nodes).is_empty());
    let aliases = [
        changed_entry(entry("few", "/few", "/spire/server", &[1]), 1),
        changed_entry(entry("most", "/most", "/spire/server", &[2]), 2),
    ];
    assert!(
        applied(&mut tables, aliases).is_empty(),
        "they have no children"
    );
    let child = |parent: &str, n| {
        let name = format!("child-{parent}");
        changed_entry(entry(&name, "/w", &format!("/{parent}"), &[1]), n)
    };
    let few = applied(&mut tables, [child("few", 3)]);
    assert!(matches!(few.entries, NodeSet::These(nodes) if nodes.len() == 19));
    let most = applied(&mut tables, [child("most", 4)]);
    assert_eq!(most.entries, NodeSet::All);
}

#[test]
fn the_own_bundle_invalidates_all_nodes() {
    let mut tables = Tables::default();
    applied(&mut tables, [changed_node(0, &[1])]);
    let record = Record {
        value: Bundle::empty(td()),
        created: Seq::new(1),
    };
    let change = || Changed::Bundle(td(), Some(record.clone()));
    let invalidated = applied(&mut tables, [change()]);
    assert_eq!(
        (invalidated.bundles, invalidated.entries.is_empty()),
        (NodeSet::All, true)
    );
    assert!(
        applied(&mut tables, [change()]).is_empty(),
        "the feed may repeat a change"
    );
}

#[tokio::test]
async fn a_subscriber_is_woken_and_reads_the_change() {
    let (store, index) = following().await;
    let mut subscription = index.subscribe(&id(NODES[0]));
    let mut other = index.subscribe(&id(NODES[1]));
    let made = [
        entry("a", "/a", "/b", &[1]),
        entry("b", "/b", NODES[0], &[1]),
    ];
    create(&store, &index, &made).await;
    assert!(subscription.changed().await.entries);
    assert_eq!(index.authorized_entries(&id(NODES[0])).len(), 2);
    create(&store, &index, &[entry("c", "/c", NODES[1], &[1])]).await;
    assert!(other.changed().await.entries);
    let woken = futures::FutureExt::now_or_never(subscription.changed());
    assert_eq!(woken, None, "the other node's entry does not concern it");
}
