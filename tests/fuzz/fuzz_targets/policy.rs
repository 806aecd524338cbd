//! A policy text is read or refused without a panic, with errors that point into the text; and a policy that was read
//! decides by its index as looking at every rule one after the other would.

#![no_main]

use countersign_identity::SpiffeId;
use countersign_mesh::Policy;
use countersign_mesh::policy::action::Action;
use countersign_mesh::policy::pattern::IdPattern;
use countersign_mesh::policy::rule::CallPath;
use libfuzzer_sys::fuzz_target;

/// How many IDs and actions are tried on each policy.
const MAX_IDS: usize = 8;

fuzz_target!(|text: &str| {
    match Policy::parse(text) {
        Ok(policy) => compare(&policy),
        Err(invalid) => {
            assert!(!invalid.errors().is_empty());
            for error in invalid.errors() {
                assert!(error.line >= 1 && error.line <= text.split('\n').count() && error.column >= 1);
            }
        }
    }
});

fn compare(policy: &Policy) {
    let ids = ids(policy);
    let actions: Vec<_> =
        ["/tasks", "/a/b", "/"].iter().filter_map(|path| Action::new("POST", path).ok()).collect();
    for from in &ids {
        let starts = policy.originate_rules().iter().find(|rule| names(&rule.workloads, from));
        assert_eq!(policy.originate(from), starts);
        for to in &ids {
            for action in &actions {
                let via: Vec<_> = ids.iter().take(2).collect();
                for originator in [Some(from), None] {
                    compare_one(policy, (from, to), action, &CallPath { originator, via: &via });
                }
            }
        }
    }
}

fn compare_one(policy: &Policy, (from, to): (&SpiffeId, &SpiffeId), action: &Action<'_>, call_path: &CallPath<'_>) {
    let mut naive = None;
    for rule in policy.allow_rules().iter().filter(|rule| names(&rule.from, from) && names(&rule.to, to)) {
        let depth = rule.match_depth(action, call_path);
        if naive.is_none_or(|(_, best)| best < depth) {
            naive = Some((rule.as_ref(), depth));
        }
    }
    assert_eq!(policy.select_rule((from, to), action, call_path), naive);
    let denied = policy.deny_rules().iter().find(|rule| {
        names(&rule.to, to)
            && rule.from.as_ref().is_none_or(|patterns| names(patterns, from))
            && rule.applies(action, call_path)
    });
    assert_eq!(policy.deny_rule((from, to), action, call_path), denied);
}

fn names(patterns: &[IdPattern], id: &SpiffeId) -> bool {
    patterns.iter().any(|pattern| pattern.matches(id))
}

/// IDs that the policy's patterns name or nearly name.
fn ids(policy: &Policy) -> Vec<SpiffeId> {
    let allowed = policy.allow_rules().iter().flat_map(|rule| rule.from.iter().chain(&rule.to));
    let denied = policy.deny_rules().iter().flat_map(|rule| &rule.to);
    let started = policy.originate_rules().iter().flat_map(|rule| &rule.workloads);
    let mut ids = Vec::new();
    for pattern in allowed.chain(denied).chain(started) {
        let text = pattern.to_string();
        for filled in [text.replace("**", "x/y").replace('*', "x"), text.replace("/*", "")] {
            if let Ok(id) = SpiffeId::parse(&filled)
                && !ids.contains(&id)
                && ids.len() < MAX_IDS
            {
                ids.push(id);
            }
        }
    }
    ids
}
