//! A policy text is read or refused without a panic, with faults that point into the text; and a policy that was read
//! decides by its index as looking at every rule one after the other would.

#![no_main]

use countersign_identity::SpiffeId;
use countersign_mesh::Policy;
use countersign_mesh::policy::action::Action;
use countersign_mesh::policy::pattern::IdPattern;
use countersign_mesh::policy::rule::Way;
use libfuzzer_sys::fuzz_target;

/// How many IDs and actions are tried on each policy.
const MAX_IDS: usize = 8;

fuzz_target!(|text: &str| {
    match Policy::parse(text) {
        Ok(policy) => compare(&policy),
        Err(invalid) => {
            assert!(!invalid.faults.is_empty());
            for fault in &invalid.faults {
                assert!(fault.line >= 1 && fault.line <= text.split('\n').count() && fault.column >= 1);
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
                    compare_one(policy, (from, to), action, &Way { originator, via: &via });
                }
            }
        }
    }
}

fn compare_one(policy: &Policy, (from, to): (&SpiffeId, &SpiffeId), action: &Action<'_>, way: &Way<'_>) {
    let mut naive = None;
    for rule in policy.allow_rules().iter().filter(|rule| names(&rule.from, from) && names(&rule.to, to)) {
        let reach = rule.reach(action, way);
        if naive.is_none_or(|(_, best)| best < reach) {
            naive = Some((rule.as_ref(), reach));
        }
    }
    assert_eq!(policy.deciding((from, to), action, way), naive);
    let denied = policy.deny_rules().iter().find(|rule| {
        names(&rule.to, to)
            && rule.from.as_ref().is_none_or(|patterns| names(patterns, from))
            && rule.applies(action, way)
    });
    assert_eq!(policy.denying((from, to), action, way), denied);
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
