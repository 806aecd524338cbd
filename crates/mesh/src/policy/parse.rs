//! Reads a policy text: HCL with positions, every error reported together.

mod value;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hcl_edit::Span as _;
use hcl_edit::structure::{Block, Structure};

use self::value::{PolicyReader, Section};
use super::error::nearest;
use super::index::IdIndex;
use super::rule::{AllowRule, ChainDemand, DenyRule, OriginateRule, Verify};
use super::{InvalidPolicy, MAX_POLICY_LEN, PolicyErrorKind};
use crate::chain::codec::{MAX_HOPS, MAX_LIFETIME};
use crate::limits::{
    DEFAULT_BUDGET, DEFAULT_CALLS_PER_CHAIN, DEFAULT_DEADLINE, DEFAULT_MAX_HOPS, DEFAULT_RATE, Rate,
};

/// What an attribute's name means to this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    Now,
    NotYet,
}

/// The attributes of one kind of block.
type Attributes = &'static [(&'static str, Support)];

const DEFAULTS: Attributes = &[
    ("max_hops", Support::Now),
    ("rate", Support::Now),
    ("verify", Support::Now),
    ("max_age", Support::Now),
    ("mode", Support::NotYet),
    ("same", Support::NotYet),
];

const ORIGINATE: Attributes = &[
    ("workloads", Support::Now),
    ("new_chains", Support::Now),
    ("budget", Support::Now),
    ("deadline", Support::Now),
    ("max_hops", Support::Now),
];

const ALLOW: Attributes = &[
    ("from", Support::Now),
    ("to", Support::Now),
    ("actions", Support::Now),
    ("rate", Support::Now),
    ("max_hops", Support::Now),
    ("calls_per_chain", Support::Now),
    ("reentry", Support::Now),
    ("grant", Support::Now),
    ("originators", Support::Now),
    ("require_via", Support::Now),
    ("chain", Support::Now),
    ("max_age", Support::Now),
    ("signed", Support::NotYet),
    ("replies", Support::NotYet),
    ("free", Support::NotYet),
    ("upgrade", Support::NotYet),
    ("stream_messages", Support::NotYet),
    ("mode", Support::NotYet),
];

const DENY: Attributes = &[
    ("from", Support::Now),
    ("to", Support::Now),
    ("actions", Support::Now),
    ("originators", Support::Now),
    ("deny_if_via", Support::Now),
];

/// Checked rules with their defaults filled in, in the order of the text.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) verify: Verify,
    pub(super) max_hops: u8,
    pub(super) originate: Vec<OriginateRule>,
    pub(super) allow: Vec<AllowRule>,
    pub(super) deny: Vec<DenyRule>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            verify: Verify::default(),
            max_hops: DEFAULT_MAX_HOPS,
            originate: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

/// What fills in where a rule says nothing.
struct Defaults {
    max_hops: u8,
    rate: Rate,
    verify: Verify,
    max_age: Option<Duration>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            max_hops: DEFAULT_MAX_HOPS,
            rate: DEFAULT_RATE,
            verify: Verify::default(),
            max_age: None,
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Rules, InvalidPolicy> {
    let mut reader = PolicyReader::new(text);
    if text.len() > MAX_POLICY_LEN {
        reader.error(
            0,
            PolicyErrorKind::TooLarge,
            format!(
                "the policy has {} bytes; at most {MAX_POLICY_LEN} are allowed",
                text.len()
            ),
        );
        return Err(reader.into_invalid());
    }
    let body = match hcl_edit::parser::parse_body(text) {
        Ok(body) => body,
        Err(error) => {
            reader.error(
                error.location().offset(),
                PolicyErrorKind::Syntax,
                format!("this is not HCL: {}", error.message()),
            );
            return Err(reader.into_invalid());
        }
    };
    let mut blocks = Vec::new();
    for structure in &body {
        match structure {
            Structure::Block(block) => blocks.push(block),
            Structure::Attribute(attribute) => {
                let at = attribute.key.span().map_or(0, |span| span.start);
                let message = format!("{:?} stands outside any block", attribute.key.as_str());
                reader.error(at, PolicyErrorKind::Misplaced, message);
            }
        }
    }
    let rules = read_blocks(&mut reader, &blocks);
    reader.finish(rules)
}

fn read_blocks(reader: &mut PolicyReader<'_>, blocks: &[&Block]) -> Rules {
    let defaults = read_defaults(reader, blocks);
    let mut rules = Rules {
        verify: defaults.verify,
        max_hops: defaults.max_hops,
        ..Rules::default()
    };
    let mut names = HashMap::new();
    // Where the `from` of each rule with an optional chain stands.
    let mut optional = Vec::new();
    for block in blocks {
        match block.ident.as_str() {
            "defaults" => {}
            "originate" => {
                let name = rule_name(reader, block, &mut names);
                let section = reader.section(block, "originate", ORIGINATE);
                rules
                    .originate
                    .extend(read_originate(reader, name, &section, &defaults));
            }
            "allow" => {
                let name = rule_name(reader, block, &mut names);
                let section = reader.section(block, "allow", ALLOW);
                if let Some(rule) = read_allow(reader, name, &section, &defaults) {
                    if rule.chain == ChainDemand::Optional {
                        optional.push((rules.allow.len(), section.start_of("from")));
                    }
                    rules.allow.push(rule);
                }
            }
            "deny" => {
                let name = rule_name(reader, block, &mut names);
                let section = reader.section(block, "deny", DENY);
                rules.deny.extend(read_deny(reader, name, &section));
            }
            other => {
                let at = block.ident.span().map_or(0, |span| span.start);
                reader.error_near(
                    at,
                    PolicyErrorKind::UnknownBlock,
                    format!(
                        "unknown block {other:?}: there are defaults, originate, allow and deny"
                    ),
                    nearest(other, ["defaults", "originate", "allow", "deny"]),
                );
            }
        }
    }
    check_optional(reader, &rules, &optional);
    rules
}

fn read_defaults(reader: &mut PolicyReader<'_>, blocks: &[&Block]) -> Defaults {
    let mut defaults = Defaults::default();
    let mut found = blocks
        .iter()
        .filter(|block| block.ident.as_str() == "defaults");
    let Some(block) = found.next() else {
        return defaults;
    };
    for second in found {
        let at = second.ident.span().map_or(0, |span| span.start);
        reader.error(
            at,
            PolicyErrorKind::RuleName,
            "there is a second defaults block; write all defaults into one",
        );
    }
    if let Some(label) = block.labels.first() {
        let at = label.span().map_or(0, |span| span.start);
        reader.error(
            at,
            PolicyErrorKind::Misplaced,
            "a defaults block has no name",
        );
    }
    let section = reader.section(block, "defaults", DEFAULTS);
    if let Some(hops) = reader.number(&section, "max_hops", 1, MAX_HOPS.into()) {
        defaults.max_hops = u8::try_from(hops).unwrap_or(MAX_HOPS);
    }
    if let Some(rate) = reader.rate(&section, "rate") {
        defaults.rate = rate;
    }
    if reader.choice(&section, "verify", &["always"]).is_some() {
        defaults.verify = Verify::Always;
    }
    defaults.max_age = reader.duration(&section, "max_age", MAX_LIFETIME);
    defaults
}

/// The name of a rule, of which there may be only one.
fn rule_name(
    reader: &mut PolicyReader<'_>,
    block: &Block,
    names: &mut HashMap<String, usize>,
) -> Arc<str> {
    let kind = block.ident.as_str();
    let at = block.ident.span().map_or(0, |span| span.start);
    let [label] = block.labels.as_slice() else {
        reader.error(
            at,
            PolicyErrorKind::RuleName,
            format!("a rule has one name: {kind} \"what the rule is for\" {{ ... }}"),
        );
        return Arc::from("");
    };
    let at = label.span().map_or(at, |span| span.start);
    let name = label.as_str();
    if name.trim().is_empty() {
        reader.error(at, PolicyErrorKind::RuleName, "the rule's name is empty");
    }
    if let Some(line) = names.insert(name.to_owned(), reader.line_of(at)) {
        reader.error(at, PolicyErrorKind::RuleName, format!("the name {name:?} is taken by the rule in line {line}; every decision names its rule"));
    }
    name.into()
}

fn read_originate(
    reader: &mut PolicyReader<'_>,
    name: Arc<str>,
    section: &Section<'_>,
    defaults: &Defaults,
) -> Option<OriginateRule> {
    reader.require(section, &["workloads", "new_chains"]);
    let workloads = reader.ids(section, "workloads");
    let new_chains = reader.rate(section, "new_chains");
    let budget = reader.number(section, "budget", 0, u16::MAX.into());
    let deadline = reader.duration(section, "deadline", MAX_LIFETIME);
    let max_hops = reader.number(section, "max_hops", 1, MAX_HOPS.into());
    Some(OriginateRule {
        name,
        workloads: workloads?,
        new_chains: new_chains?,
        budget: budget.map_or(DEFAULT_BUDGET, |n| u16::try_from(n).unwrap_or(u16::MAX)),
        deadline: deadline.unwrap_or(DEFAULT_DEADLINE),
        max_hops: max_hops.map_or(defaults.max_hops, |n| u8::try_from(n).unwrap_or(MAX_HOPS)),
    })
}

fn read_allow(
    reader: &mut PolicyReader<'_>,
    name: Arc<str>,
    section: &Section<'_>,
    defaults: &Defaults,
) -> Option<AllowRule> {
    reader.require(section, &["from", "to", "actions"]);
    let from = reader.ids(section, "from");
    let to = reader.ids(section, "to");
    let actions = reader.actions(section, "actions");
    let rate = reader.rate(section, "rate");
    let max_hops = reader.number(section, "max_hops", 1, MAX_HOPS.into());
    let calls = reader.number(section, "calls_per_chain", 1, u16::MAX.into());
    let reentry = reader.number(section, "reentry", 0, u64::from(MAX_HOPS) - 1);
    let grant = reader.number(section, "grant", 0, u16::MAX.into());
    let originators = reader.ids(section, "originators");
    let require_via = reader.ids(section, "require_via");
    let chain = reader.choice(section, "chain", &["required", "optional"]);
    let max_age = reader.duration(section, "max_age", MAX_LIFETIME);
    Some(AllowRule {
        name,
        from: from?,
        to: to?,
        actions: actions?,
        rate: rate.unwrap_or(defaults.rate),
        max_hops: max_hops.map_or(defaults.max_hops, |n| u8::try_from(n).unwrap_or(MAX_HOPS)),
        calls_per_chain: calls.map_or(DEFAULT_CALLS_PER_CHAIN, |n| {
            u32::try_from(n).unwrap_or(u32::MAX)
        }),
        reentry: reentry.map_or(0, |n| u8::try_from(n).unwrap_or(0)),
        grant: grant.and_then(|n| u16::try_from(n).ok()),
        originators,
        require_via: require_via.unwrap_or_default(),
        chain: if chain == Some("optional") {
            ChainDemand::Optional
        } else {
            ChainDemand::Required
        },
        max_age: max_age.or(defaults.max_age),
    })
}

fn read_deny(
    reader: &mut PolicyReader<'_>,
    name: Arc<str>,
    section: &Section<'_>,
) -> Option<DenyRule> {
    reader.require(section, &["to"]);
    let to = reader.ids(section, "to");
    let from = reader.ids(section, "from");
    let actions = reader.actions(section, "actions");
    let originators = reader.ids(section, "originators");
    let deny_if_via = reader.ids(section, "deny_if_via");
    Some(DenyRule {
        name,
        to: to?,
        from,
        actions,
        originators,
        deny_if_via,
    })
}

/// Workloads that may come without a chain never hold one: they neither start chains nor receive calls.
fn check_optional(reader: &mut PolicyReader<'_>, rules: &Rules, optional: &[(usize, usize)]) {
    if optional.is_empty() {
        return;
    }
    let (mut originators, mut callees) = (IdIndex::default(), IdIndex::default());
    for (i, rule) in rules.originate.iter().enumerate() {
        originators.insert(Some(&rule.workloads), i);
    }
    for (i, rule) in rules.allow.iter().enumerate() {
        callees.insert(Some(&rule.to), i);
    }
    for (rule, at) in optional {
        for pattern in rules
            .allow
            .get(*rule)
            .map(|rule| rule.from.as_slice())
            .unwrap_or_default()
        {
            let Some(id) = pattern.exact() else {
                reader.error(
                    *at,
                    PolicyErrorKind::InvalidValue,
                    format!("with chain = \"optional\", from must name exact IDs, not {pattern}"),
                );
                continue;
            };
            if let Some(other) = originators
                .find(&id)
                .first()
                .and_then(|i| rules.originate.get(*i))
            {
                let why = format!(
                    "may start chains ({:?}), so it has to send them",
                    other.name
                );
                reader.error(
                    *at,
                    PolicyErrorKind::Conflict,
                    format!("with chain = \"optional\", {id} cannot stand in from: it {why}"),
                );
            }
            if let Some(other) = callees.find(&id).first().and_then(|i| rules.allow.get(*i)) {
                let why = format!(
                    "receives calls ({:?}), so it has to pass their chains on",
                    other.name
                );
                reader.error(
                    *at,
                    PolicyErrorKind::Conflict,
                    format!("with chain = \"optional\", {id} cannot stand in from: it {why}"),
                );
            }
        }
    }
}
