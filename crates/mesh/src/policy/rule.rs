//! The rules of a policy, checked and with every default filled in.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::SpiffeId;

use super::action::{Action, ActionPattern};
use super::pattern::IdPattern;
use crate::limits::Rate;

/// When the signature of a last link is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// Before anything is made of it, as long as the connection itself proves who speaks.
    #[default]
    WhenNeeded,
    /// With every request.
    Always,
}

/// Whether a request has to carry a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChainDemand {
    /// It has to.
    #[default]
    Required,
    /// It may come without; its handler then has no context.
    Optional,
}

/// Who may start chains, and of which size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginateRule {
    /// The block's name.
    pub name: Arc<str>,
    /// Who it names.
    pub workloads: Vec<IdPattern>,
    /// How fast each of them may start chains.
    pub new_chains: Rate,
    /// How many calls a chain may have in all.
    pub budget: u16,
    /// How long a chain may live, in whole seconds.
    pub deadline: Duration,
    /// How long a chain may become.
    pub max_hops: u8,
}

/// Who may call whom, what, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// The block's name.
    pub name: Arc<str>,
    /// The callers.
    pub from: Vec<IdPattern>,
    /// The callees.
    pub to: Vec<IdPattern>,
    /// What may be done.
    pub actions: Vec<ActionPattern>,
    /// How fast each caller may call each callee.
    pub rate: Rate,
    /// How long a chain may be that arrives here.
    pub max_hops: u8,
    /// How many calls one chain may make on each edge.
    pub calls_per_chain: u32,
    /// How often the callee may already stand in the chain.
    pub reentry: u8,
    /// What the callee is granted, instead of the default split.
    pub grant: Option<u16>,
    /// Whose chains are served; `None` for everyone's.
    pub originators: Option<Vec<IdPattern>>,
    /// What a chain must have come through: every pattern has to match someone.
    pub require_via: Vec<IdPattern>,
    /// Whether a request has to carry a chain.
    pub chain: ChainDemand,
    /// How old a pushed policy may be for this rule. A policy from a file is never stale.
    pub max_age: Option<Duration>,
}

/// What is refused whatever else allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyRule {
    /// The block's name.
    pub name: Arc<str>,
    /// The callees.
    pub to: Vec<IdPattern>,
    /// The callers; `None` for all.
    pub from: Option<Vec<IdPattern>>,
    /// The actions; `None` for all.
    pub actions: Option<Vec<ActionPattern>>,
    /// The originators; `None` for all.
    pub originators: Option<Vec<IdPattern>>,
    /// Who the chain must have come through; `None` for any call_path.
    pub deny_if_via: Option<Vec<IdPattern>>,
}

/// How much of a rule a request matches, the most last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchDepth {
    /// The rule names the edge, not the action.
    Edge,
    /// And the action, not the originator.
    Action,
    /// And the originator, not `require_via`.
    Originator,
    /// All of it.
    Whole,
}

/// Whom a call came through: the chain's originator and every callee before this one.
#[derive(Clone, Copy, Debug)]
pub struct CallPath<'a> {
    /// `None` for a request without a chain.
    pub originator: Option<&'a SpiffeId>,
    /// The originator and all callees but the last; the peer alone for a request without a chain.
    pub via: &'a [&'a SpiffeId],
}

fn any(patterns: &[IdPattern], id: &SpiffeId) -> bool {
    patterns.iter().any(|pattern| pattern.matches(id))
}

fn any_action(patterns: &[ActionPattern], action: &Action<'_>) -> bool {
    patterns.iter().any(|pattern| pattern.matches(action))
}

impl AllowRule {
    /// How much of the rule this action and call path match; its edge matched already.
    #[must_use]
    pub fn match_depth(&self, action: &Action<'_>, call_path: &CallPath<'_>) -> MatchDepth {
        if !any_action(&self.actions, action) {
            return MatchDepth::Edge;
        }
        // Without a chain there is no originator, and rules about the call path never match (section 3).
        let serves =
            |patterns: &Vec<IdPattern>| call_path.originator.is_some_and(|id| any(patterns, id));
        if !self.originators.as_ref().is_none_or(serves) {
            return MatchDepth::Action;
        }
        let came = |pattern: &IdPattern| {
            call_path.originator.is_some() && call_path.via.iter().any(|id| pattern.matches(id))
        };
        if !self.require_via.iter().all(came) {
            return MatchDepth::Originator;
        }
        MatchDepth::Whole
    }
}

impl DenyRule {
    /// Whether the rule refuses this action on this call path; its edge matched already.
    #[must_use]
    pub fn applies(&self, action: &Action<'_>, call_path: &CallPath<'_>) -> bool {
        self.actions
            .as_ref()
            .is_none_or(|patterns| any_action(patterns, action))
            && self
                .originators
                .as_ref()
                .is_none_or(|patterns| call_path.originator.is_some_and(|id| any(patterns, id)))
            && self
                .deny_if_via
                .as_ref()
                .is_none_or(|patterns| call_path.via.iter().any(|id| any(patterns, id)))
    }
}

impl OriginateRule {
    /// Whether the rule names this workload.
    #[must_use]
    pub fn names(&self, id: &SpiffeId) -> bool {
        any(&self.workloads, id)
    }
}
