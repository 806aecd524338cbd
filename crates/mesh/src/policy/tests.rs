//! Reading policies, and the index against a naive evaluation.

use countersign_identity::SpiffeId;
use proptest::prelude::*;

use super::rule::{ChainDemand, Verify};
use super::*;

fn errors(text: &str) -> Vec<String> {
    Policy::parse(text)
        .unwrap_err()
        .errors()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

const EXAMPLE: &str = r#"
defaults {
  max_hops = 4
  rate     = "40/s burst 80"
  verify   = "always"
  max_age  = "30m"
}

originate "planner starts work" {
  workloads  = ["spiffe://ai-agents.org/planner"]
  new_chains = "1/s burst 10"
  budget     = 128
  deadline   = "90s"
}

allow "planner gives tasks to coders" {
  from     = ["spiffe://ai-agents.org/planner"]
  to       = ["spiffe://ai-agents.org/coder/*"]
  actions  = ["POST /tasks", "/tasks.v1.Tasks/*"]
  rate     = "10/s burst 20"
  max_hops = 3
  calls_per_chain = 7
  reentry  = 1
  grant    = 0
}

allow "coders look things up" {
  from        = ["spiffe://ai-agents.org/coder/*"]
  to          = ["spiffe://ai-agents.org/library"]
  actions     = ["GET /books/**"]
  originators = ["spiffe://ai-agents.org/planner"]
  require_via = ["spiffe://ai-agents.org/planner", "spiffe://ai-agents.org/coder/*"]
}

deny "nothing that passed the scraper reaches payments" {
  to          = ["spiffe://ai-agents.org/payments"]
  deny_if_via = ["spiffe://ai-agents.org/scraper"]
}
"#;

#[test]
fn a_policy_is_read_with_its_defaults_filled_in() {
    let policy = Policy::parse(EXAMPLE).unwrap();
    assert_eq!((policy.verify(), policy.max_hops()), (Verify::Always, 4));
    let planner = policy
        .originate(&id("spiffe://ai-agents.org/planner"))
        .unwrap();
    assert_eq!(
        (planner.budget, planner.deadline.as_secs(), planner.max_hops),
        (128, 90, 4)
    );
    assert!(
        policy
            .originate(&id("spiffe://ai-agents.org/coder/1"))
            .is_none()
    );
    let [tasks, books] = policy.allow_rules() else {
        panic!()
    };
    assert_eq!(
        (tasks.rate.to_string().as_str(), tasks.max_hops),
        ("10/s burst 20", 3)
    );
    assert_eq!(
        (tasks.calls_per_chain, tasks.reentry, tasks.grant),
        (7, 1, Some(0))
    );
    assert_eq!(
        (books.rate.to_string().as_str(), books.max_hops),
        ("40/s burst 80", 4)
    );
    assert_eq!(
        (books.calls_per_chain, books.reentry, books.grant),
        (64, 0, None)
    );
    assert_eq!(
        (books.chain, books.require_via.len()),
        (ChainDemand::Required, 2)
    );
    assert_eq!(books.max_age.unwrap().as_secs(), 1_800);
    assert_eq!(policy.deny_rules().len(), 1);
}

#[test]
fn without_defaults_the_documented_ones_hold() {
    let policy = Policy::parse(
        "originate \"o\" {\n workloads = [\"spiffe://td/a\"]\n new_chains = \"1/s burst 1\"\n}\n\
         allow \"r\" {\n from = [\"spiffe://td/a\"]\n to = [\"spiffe://td/b\"]\n actions = [\"/x\"]\n}",
    )
    .unwrap();
    let (originate, allow) = (&policy.originate_rules()[0], &policy.allow_rules()[0]);
    assert_eq!(
        (
            originate.budget,
            originate.deadline.as_secs(),
            originate.max_hops
        ),
        (256, 300, 5)
    );
    assert_eq!(
        (allow.max_hops, allow.calls_per_chain, allow.reentry),
        (5, 64, 0)
    );
    assert_eq!(allow.rate.to_string(), "50/s burst 100");
    assert_eq!(policy.verify(), Verify::WhenNeeded);
}

#[test]
fn every_error_is_reported_with_its_line_and_column() {
    let text = r#"allow "one" {
  from    = ["spiffe://td/a", "spiffe://TD/b"]
  to      = []
  rate    = "fast"
  max_hops = 17
  signed  = true
  colour  = "blue"
}
allow "one" {
  from    = "spiffe://td/a"
  to      = ["spiffe://td/pay*"]
  actions = ["tasks", 7]
}
permit "x" {}
defaults {
  mode = "shadow"
}
defaults {}
speed = 3
originate "two" {
  workloads = [""]
  budget    = 65536
  deadline  = "25h"
}
"#;
    let found = errors(text);
    let expected = [
        ("1:1", "allow needs \"actions\""),
        ("2:31", "trust domain characters"),
        ("3:13", "to is empty"),
        ("4:13", "such as \"10/s burst 20\""),
        ("5:14", "max_hops must be a whole number from 1 to 16"),
        ("6:3", "\"signed\" is not supported yet"),
        ("7:3", "unknown attribute \"colour\""),
        ("9:7", "the name \"one\" is taken by the rule in line 1"),
        ("10:13", "from must be a list"),
        ("11:14", "* stands for a whole segment"),
        ("12:14", "write a method, one space and a path"),
        ("12:23", "actions must hold strings"),
        ("14:1", "unknown block \"permit\""),
        ("16:3", "\"mode\" is not supported yet"),
        ("18:1", "a second defaults block"),
        ("19:1", "\"speed\" stands outside any block"),
        ("20:1", "originate needs \"new_chains\""),
        ("21:16", "it is empty"),
        ("22:15", "budget must be a whole number from 0 to 65535"),
        ("23:15", "write a time from 1s to 24h"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (error, (place, words)) in found.iter().zip(expected) {
        assert!(
            error.starts_with(&format!("{place}: ")) && error.contains(words),
            "{error} / {place} {words}"
        );
    }
}

#[test]
fn an_unknown_name_comes_with_the_known_name_near_it() {
    let text = "allow \"x\" {\n  max_hop = 3\n  colour = 1\n}\nalow \"y\" {}\n";
    let invalid = Policy::parse(text).unwrap_err();
    let found: Vec<_> = invalid
        .errors()
        .iter()
        .map(|error| (error.line, error.kind, error.near))
        .filter(|(_, kind, _)| *kind != PolicyErrorKind::Missing)
        .collect();
    assert_eq!(
        found,
        [
            (2, PolicyErrorKind::UnknownAttribute, Some("max_hops")),
            (3, PolicyErrorKind::UnknownAttribute, None),
            (5, PolicyErrorKind::UnknownBlock, Some("allow")),
        ]
    );
}

#[test]
fn an_attribute_that_stands_twice_is_an_error() {
    let found = errors(
        r#"
deny "x" {
  to = ["spiffe://td/payments"]
  to = ["spiffe://td/nobody"]
}
"#,
    );
    assert!(found[0].starts_with("4:3: "), "{found:?}");
}

#[test]
fn attributes_of_later_parts_are_not_supported_yet() {
    for name in [
        "signed",
        "replies",
        "free",
        "upgrade",
        "stream_messages",
        "mode",
    ] {
        let found = errors(&format!("allow \"r\" {{\n  {name} = true\n}}"));
        assert!(
            found
                .iter()
                .any(|error| *error == format!("2:3: {name:?} is not supported yet")),
            "{found:?}"
        );
    }
    for name in ["mode", "same"] {
        let found = errors(&format!("defaults {{\n  {name} = true\n}}"));
        assert_eq!(found, [format!("2:3: {name:?} is not supported yet")]);
    }
}

#[test]
fn a_text_that_is_not_hcl_is_refused_where_it_stops_to_be() {
    let found = errors("allow \"x\" {\n  from = [\n}");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("3:1: this is not HCL"), "{found:?}");
    assert!(
        errors("allow \"x\" {\n  to = [\"spiffe://${td}/a\"]\n}")
            .iter()
            .any(|f| f.contains("without templates"))
    );
    assert!(errors("allow {\n}")[0].contains("a rule has one name"));
    assert!(
        errors("allow \"\" {\n}")
            .iter()
            .any(|f| f.contains("name is empty"))
    );
}

#[test]
fn a_policy_over_its_size_is_refused() {
    let comment = "#".repeat(MAX_POLICY_LEN - 1);
    assert!(Policy::parse(&format!("{comment}\n")).is_ok());
    assert!(errors(&format!("{comment}\n\n"))[0].contains("at most 2097152 are allowed"));
}

#[test]
fn deeply_nested_text_is_refused_and_not_followed() {
    for piece in [
        "[",
        "(",
        "!",
        "-",
        "{a=",
        "a(",
        "\"${",
        "a ? ",
        "[for a in ",
        "a[",
    ] {
        let deep = format!("allow \"x\" {{\n from = {}\n}}", piece.repeat(100_000));
        assert_eq!(errors(&deep).len(), 1, "{piece}");
    }
    assert_eq!(errors(&"a {\n".repeat(100_000)).len(), 1);
    // Long without being deep: every piece is read, and none is a string.
    let chain = format!("allow \"x\" {{\n from = a{}\n}}", ".b".repeat(100_000));
    assert!(!errors(&chain).is_empty());
    let sum = format!("allow \"x\" {{\n from = 1{}\n}}", " + 1".repeat(100_000));
    assert!(!errors(&sum).is_empty());
}

#[test]
fn who_may_come_without_a_chain_neither_starts_nor_receives_one() {
    let text = r#"
originate "o" {
  workloads  = ["spiffe://td/a"]
  new_chains = "1/s burst 1"
}
allow "probes" {
  from    = ["spiffe://td/prober", "spiffe://td/a", "spiffe://td/b", "spiffe://td/p/*"]
  to      = ["spiffe://td/b"]
  actions = ["GET /health"]
  chain   = "optional"
}
"#;
    let found = errors(text);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|error| error.starts_with("7:13: ")));
    assert!(
        found[0].contains("may start chains")
            && found[1].contains("receives calls")
            && found[2].contains("exact")
    );
}

#[test]
fn the_first_whole_match_decides_else_the_deepest_match() {
    let rule = |name: &str, more: &str| {
        format!(
            "allow \"{name}\" {{\n from = [\"spiffe://td/**\"]\n to = [\"spiffe://td/z\"]\n{more}\n}}\n"
        )
    };
    let text = [
        rule("other action", "actions = [\"/other\"]"),
        rule("other originator", "actions = [\"/x\"]\n originators = [\"spiffe://td/o\"]"),
        rule("other originator too", "actions = [\"/x\"]\n originators = [\"spiffe://td/o\"]\n grant = 1"),
        rule("other way", "actions = [\"/x\"]\n originators = [\"spiffe://td/a\"]\n require_via = [\"spiffe://td/v\"]"),
        rule("whole", "actions = [\"/x\"]\n require_via = [\"spiffe://td/w\"]"),
        rule("whole too", "actions = [\"/x\"]\n require_via = [\"spiffe://td/w\"]"),
    ]
    .concat();
    let policy = Policy::parse(&text).unwrap();
    let select = |originator: &str, via: &[&str], path: &str| {
        let (from, to) = (id("spiffe://td/b"), id("spiffe://td/z"));
        let originator = id(&format!("spiffe://td/{originator}"));
        let via: Vec<_> = via
            .iter()
            .map(|name| id(&format!("spiffe://td/{name}")))
            .collect();
        let via: Vec<_> = via.iter().collect();
        let call_path = CallPath {
            originator: Some(&originator),
            via: &via,
        };
        let selected = policy
            .edge(&from, &to)
            .select(&Action::new("POST", path).unwrap(), &call_path)
            .unwrap();
        (selected.rule.name.to_string(), selected.depth)
    };
    assert_eq!(
        select("a", &["a", "w"], "/x"),
        ("whole".to_owned(), MatchDepth::Whole)
    );
    assert_eq!(
        select("a", &["a", "v"], "/x"),
        ("other way".to_owned(), MatchDepth::Whole)
    );
    assert_eq!(
        select("a", &["a", "b"], "/x"),
        ("other way".to_owned(), MatchDepth::Originator)
    );
    assert_eq!(
        select("b", &["b"], "/x"),
        ("whole".to_owned(), MatchDepth::Originator)
    );
    assert_eq!(
        select("o", &["o"], "/x"),
        ("other originator".to_owned(), MatchDepth::Whole)
    );
    assert_eq!(
        select("a", &["a"], "/y"),
        ("other action".to_owned(), MatchDepth::Edge)
    );
}

/// IDs and patterns over few names, so that they meet often.
fn any_id() -> impl Strategy<Value = SpiffeId> {
    "spiffe://(td|other)(/[abc]){1,3}".prop_map(|text| id(&text))
}

fn any_pattern() -> impl Strategy<Value = String> {
    "spiffe://(td|other)(/[abc*]){1,3}|spiffe://(td|other)(/[abc*]){0,2}/\\*\\*"
}

fn any_list() -> impl Strategy<Value = String> {
    prop::collection::vec(any_pattern(), 1..4).prop_map(|list| format!("{list:?}"))
}

prop_compose! {
    fn any_allow()(
        from in any_list(), to in any_list(),
        action in prop::sample::select(vec!["/x", "/x/*", "/**", "GET /x"]),
        originators in prop::option::of(any_list()), require_via in prop::option::of(any_list()),
    ) -> String {
        let mut text = format!("from = {from}\n to = {to}\n actions = [{action:?}]\n");
        if let Some(list) = originators {
            text += &format!(" originators = {list}\n");
        }
        if let Some(list) = require_via {
            text += &format!(" require_via = {list}\n");
        }
        text
    }
}

prop_compose! {
    fn any_deny()(
        to in any_list(), from in prop::option::of(any_list()), via in prop::option::of(any_list()),
    ) -> String {
        let mut text = format!("to = {to}\n");
        if let Some(list) = from {
            text += &format!(" from = {list}\n");
        }
        if let Some(list) = via {
            text += &format!(" deny_if_via = {list}\n");
        }
        text
    }
}

proptest! {
    /// What the index finds is what looking at every rule finds.
    #[test]
    fn the_index_decides_like_a_naive_evaluation(
        allow in prop::collection::vec(any_allow(), 0..12),
        deny in prop::collection::vec(any_deny(), 0..6),
        originate in prop::collection::vec(any_list(), 0..4),
        ids in prop::collection::vec(any_id(), 3..6),
        path in prop::sample::select(vec!["/x", "/x/y", "/z"]),
    ) {
        let mut text = String::new();
        for (i, body) in allow.iter().enumerate() {
            text += &format!("allow \"a{i}\" {{\n {body}}}\n");
        }
        for (i, body) in deny.iter().enumerate() {
            text += &format!("deny \"d{i}\" {{\n {body}}}\n");
        }
        for (i, list) in originate.iter().enumerate() {
            text += &format!("originate \"o{i}\" {{\n workloads = {list}\n new_chains = \"1/s burst 1\"\n}}\n");
        }
        let policy = Policy::parse(&text).unwrap();
        let action = Action::new("POST", path).unwrap();
        let via: Vec<_> = ids.iter().skip(2).collect();
        for call_path in [CallPath { originator: via.first().copied(), via: &via }, CallPath { originator: None, via: &via[..1] }] {
            let (from, to) = (&ids[0], &ids[1]);
            let names = |patterns: &[pattern::IdPattern], id: &SpiffeId| patterns.iter().any(|p| p.matches(id));
            let edge = policy.edge(from, to);
            let on_edge: Vec<_> =
                policy.allow_rules().iter().filter(|r| names(&r.from, from) && names(&r.to, to)).collect();
            prop_assert_eq!(edge.is_named(), !on_edge.is_empty());
            prop_assert_eq!(edge.allows(&action), on_edge.iter().any(|r| r.match_depth(&action, &call_path) > MatchDepth::Edge));
            let best = on_edge.iter().map(|r| r.match_depth(&action, &call_path)).max();
            let naive = on_edge.iter().find(|r| Some(r.match_depth(&action, &call_path)) == best);
            let selected = edge.select(&action, &call_path);
            prop_assert_eq!(selected.as_ref().map(|s| &s.rule.name), naive.map(|r| &r.name));
            let denied = policy.deny_rules().iter().find(|r| {
                names(&r.to, to) && r.from.as_ref().is_none_or(|f| names(f, from)) && r.applies(&action, &call_path)
            });
            prop_assert_eq!(edge.denied(&action, &call_path).map(|r| &r.name), denied.map(|r| &r.name));
            let starts = policy.originate_rules().iter().find(|r| r.names(from));
            prop_assert_eq!(policy.originate(from).map(|r| &r.name), starts.map(|r| &r.name));
        }
    }

    #[test]
    fn no_text_panics(text in "(allow|deny|defaults|originate| |\"x\"|\\{|\\}|\n|from|to|=|\\[|\\]|\"spiffe://td/a\"|#){0,30}") {
        let _ = Policy::parse(&text);
    }
}
