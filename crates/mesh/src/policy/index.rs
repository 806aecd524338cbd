//! Indexes over rules, so that the cost of a decision does not grow with rules that do not concern it.

use std::collections::HashMap;

use countersign_identity::SpiffeId;

use super::pattern::{IdPattern, Segment, Tail};

/// The place of a rule in its list.
pub(super) type RuleIndex = usize;

/// Finds the rules one of whose patterns names an ID.
#[derive(Debug, Default)]
pub(super) struct IdIndex {
    /// Rules that name every ID, because they leave the attribute out.
    all: Vec<RuleIndex>,
    exact: HashMap<SpiffeId, Vec<RuleIndex>>,
    /// By trust domain, for patterns with wildcards.
    trees: HashMap<Box<str>, Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Patterns that end here.
    end: Vec<RuleIndex>,
    /// Patterns that take one segment or more from here on.
    any_more: Vec<RuleIndex>,
    literal: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
}

impl IdIndex {
    /// Enters a rule with its patterns; `None` if it names every ID.
    pub(super) fn insert(&mut self, patterns: Option<&[IdPattern]>, rule: RuleIndex) {
        let Some(patterns) = patterns else {
            self.all.push(rule);
            return;
        };
        for pattern in patterns {
            match pattern.exact() {
                Some(id) => self.exact.entry(id).or_default().push(rule),
                None => self
                    .trees
                    .entry(pattern.trust_domain().into())
                    .or_default()
                    .insert(pattern, rule),
            }
        }
    }

    /// The rules that name this ID, in the order of the file, each once.
    pub(super) fn find(&self, id: &SpiffeId) -> Vec<RuleIndex> {
        let mut found = self.all.clone();
        found.extend(self.exact.get(id).into_iter().flatten());
        if let Some(tree) = self.trees.get(id.trust_domain_name()) {
            tree.find(id.path().strip_prefix('/'), &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Node {
    fn insert(&mut self, pattern: &IdPattern, rule: RuleIndex) {
        let node = pattern
            .segments()
            .iter()
            .fold(self, |node, segment| match segment {
                Segment::Literal(literal) => node.literal.entry(literal.clone()).or_default(),
                Segment::Any => node.any.get_or_insert_default(),
            });
        match pattern.tail() {
            Tail::End => node.end.push(rule),
            Tail::AnyMore => node.any_more.push(rule),
        }
    }

    /// `rest` is the part of the path after this node; `None` at the end of the path.
    fn find(&self, rest: Option<&str>, found: &mut Vec<RuleIndex>) {
        let Some(rest) = rest else {
            found.extend(&self.end);
            return;
        };
        found.extend(&self.any_more);
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        if let Some(node) = self.literal.get(segment) {
            node.find(below, found);
        }
        if let Some(node) = &self.any {
            node.find(below, found);
        }
    }
}
