//! The mesh policy: who may start chains, who may call whom, and within which limits.
//!
//! `docs/call-chains.md`, section 7. A [`Policy`] is checked and compiled once and never changes; a new version is a new
//! value, which the next decision gets.

pub mod action;
mod error;
mod index;
mod parse;
pub mod pattern;
pub mod rule;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use countersign_identity::SpiffeId;

pub use self::error::{InvalidPolicy, PolicyError, PolicyErrorKind};

use self::action::Action;
use self::index::IdIndex;
use self::rule::{AllowRule, CallPath, DenyRule, MatchDepth, OriginateRule, Verify};

/// The largest policy text, in bytes.
pub const MAX_POLICY_LEN: usize = 2 * 1024 * 1024;
/// For how many callees the rules that concern them are kept at hand.
const MAX_VIEWS: usize = 1_024;

/// A checked and compiled policy.
#[derive(Debug)]
pub struct Policy {
    verify: Verify,
    max_hops: u8,
    originate: Vec<OriginateRule>,
    allow: Vec<Arc<AllowRule>>,
    deny: Vec<DenyRule>,
    originate_by_workload: IdIndex,
    allow_by_callee: IdIndex,
    deny_by_callee: IdIndex,
    views: RwLock<HashMap<SpiffeId, Arc<View>>>,
}

/// The rules that concern one callee, by caller.
#[derive(Debug, Default)]
struct View {
    allow: IdIndex,
    deny: IdIndex,
}

/// The rules that concern one edge.
#[derive(Debug)]
pub(crate) struct Edge<'p> {
    policy: &'p Policy,
    allow: Vec<usize>,
    deny: Vec<usize>,
}

/// The rule that decides about a request, and how much of it the request matches.
#[derive(Debug)]
pub(crate) struct Selected<'p> {
    pub(crate) rule: &'p Arc<AllowRule>,
    pub(crate) depth: MatchDepth,
}

impl Policy {
    /// Reads a policy in HCL and compiles it.
    ///
    /// # Errors
    /// All errors of the text. A text that is not HCL has one, where it stops being HCL.
    pub fn parse(text: &str) -> Result<Self, InvalidPolicy> {
        parse::parse(text).map(Self::compile)
    }

    /// The policy of a trust domain that has none: everything is refused.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::compile(parse::Rules::default())
    }

    fn compile(rules: parse::Rules) -> Self {
        let parse::Rules {
            verify,
            max_hops,
            originate,
            allow,
            deny,
        } = rules;
        let mut policy = Self {
            verify,
            max_hops,
            originate,
            allow: allow.into_iter().map(Arc::new).collect(),
            deny,
            originate_by_workload: IdIndex::default(),
            allow_by_callee: IdIndex::default(),
            deny_by_callee: IdIndex::default(),
            views: RwLock::default(),
        };
        for (i, rule) in policy.originate.iter().enumerate() {
            policy
                .originate_by_workload
                .insert(Some(&rule.workloads), i);
        }
        for (i, rule) in policy.allow.iter().enumerate() {
            policy.allow_by_callee.insert(Some(&rule.to), i);
        }
        for (i, rule) in policy.deny.iter().enumerate() {
            policy.deny_by_callee.insert(Some(&rule.to), i);
        }
        policy
    }

    /// When signatures of last links are checked.
    #[must_use]
    pub fn verify(&self) -> Verify {
        self.verify
    }

    /// The hop limit of an edge that no rule names.
    #[must_use]
    pub fn max_hops(&self) -> u8 {
        self.max_hops
    }

    /// The rule under which this workload may start chains: the first that names it.
    #[must_use]
    pub fn originate(&self, id: &SpiffeId) -> Option<&OriginateRule> {
        let first = *self.originate_by_workload.find(id).first()?;
        self.originate.get(first)
    }

    /// The originate rules in the order of the file.
    #[must_use]
    pub fn originate_rules(&self) -> &[OriginateRule] {
        &self.originate
    }

    /// The allow rules in the order of the file.
    #[must_use]
    pub fn allow_rules(&self) -> &[Arc<AllowRule>] {
        &self.allow
    }

    /// The deny rules in the order of the file.
    #[must_use]
    pub fn deny_rules(&self) -> &[DenyRule] {
        &self.deny
    }

    /// The allow rule that decides about a request: the first that matches wholly, else the deepest match, the
    /// first of these in the file. `None` if no rule names the edge.
    #[must_use]
    pub fn select_rule(
        &self,
        (caller, callee): (&SpiffeId, &SpiffeId),
        action: &Action<'_>,
        call_path: &CallPath<'_>,
    ) -> Option<(&AllowRule, MatchDepth)> {
        let selected = self.edge(caller, callee).select(action, call_path)?;
        Some((selected.rule, selected.depth))
    }

    /// The first deny rule that applies to a request, whatever allows it.
    #[must_use]
    pub fn deny_rule(
        &self,
        (caller, callee): (&SpiffeId, &SpiffeId),
        action: &Action<'_>,
        call_path: &CallPath<'_>,
    ) -> Option<&DenyRule> {
        self.edge(caller, callee).denied(action, call_path)
    }

    /// The rules that concern calls from `caller` to `callee`.
    pub(crate) fn edge(&self, caller: &SpiffeId, callee: &SpiffeId) -> Edge<'_> {
        let view = self.view(callee);
        Edge {
            policy: self,
            allow: view.allow.find(caller),
            deny: view.deny.find(caller),
        }
    }

    fn view(&self, callee: &SpiffeId) -> Arc<View> {
        if let Some(view) = self
            .views
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(callee)
        {
            return Arc::clone(view);
        }
        let mut view = View::default();
        for i in self.allow_by_callee.find(callee) {
            view.allow
                .insert(self.allow.get(i).map(|rule| rule.from.as_slice()), i);
        }
        for i in self.deny_by_callee.find(callee) {
            view.deny
                .insert(self.deny.get(i).and_then(|rule| rule.from.as_deref()), i);
        }
        let view = Arc::new(view);
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        // Callees are this process's own identities, but policy tools may ask about any ID: the map stays bounded.
        if views.len() < MAX_VIEWS {
            views.insert(callee.clone(), Arc::clone(&view));
        }
        view
    }
}

impl<'p> Edge<'p> {
    /// Whether an allow rule names the edge.
    pub(crate) fn is_named(&self) -> bool {
        !self.allow.is_empty()
    }

    /// Whether an allow rule names the edge and this action.
    pub(crate) fn allows(&self, action: &Action<'_>) -> bool {
        self.allow_rules()
            .any(|rule| rule.actions.iter().any(|pattern| pattern.matches(action)))
    }

    /// The first allow rule that matches wholly, else the deepest match, the first of these in the file.
    pub(crate) fn select(
        &self,
        action: &Action<'_>,
        call_path: &CallPath<'_>,
    ) -> Option<Selected<'p>> {
        let mut furthest: Option<Selected<'p>> = None;
        for rule in self.allow_rules() {
            let depth = rule.match_depth(action, call_path);
            if furthest.as_ref().is_none_or(|best| best.depth < depth) {
                furthest = Some(Selected { rule, depth });
            }
            // The first whole match decides, whatever later rules say (section 7).
            if depth == MatchDepth::Whole {
                break;
            }
        }
        furthest
    }

    /// The first deny rule that applies.
    pub(crate) fn denied(
        &self,
        action: &Action<'_>,
        call_path: &CallPath<'_>,
    ) -> Option<&'p DenyRule> {
        let policy = self.policy;
        self.deny
            .iter()
            .filter_map(|i| policy.deny.get(*i))
            .find(|rule| rule.applies(action, call_path))
    }

    fn allow_rules(&self) -> impl Iterator<Item = &'p Arc<AllowRule>> {
        let policy = self.policy;
        self.allow.iter().filter_map(|i| policy.allow.get(*i))
    }
}

#[cfg(test)]
mod tests;
