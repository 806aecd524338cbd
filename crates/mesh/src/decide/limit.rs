//! The limits that hold for one chain at one callee: the smallest of all that were set.

use countersign_identity::UnixTime;

use crate::chain::{Chain, Link};
use crate::policy::rule::{AllowRule, OriginateRule};

/// Effective limits of a chain (`docs/call-chains.md`, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effective {
    /// How long the chain may be, and which rule or claim says so.
    pub(super) max_hops: u8,
    /// From which second on nothing is permitted.
    pub(super) deadline: UnixTime,
    /// The originate rule's bound on the calls downstream of any link, and in the whole chain.
    pub(super) budget: u16,
    /// The deadline that the originate rule sets, before any claim.
    rule_deadline: u64,
}

impl Effective {
    pub(super) fn of(chain: &Chain, originate: &OriginateRule, allow: &AllowRule) -> Self {
        let first_iat = chain.links().first().map_or(0, |link| link.claims.iat);
        let rule_deadline = first_iat.saturating_add(originate.deadline.as_secs());
        let claims = || chain.links().iter().map(|link| &link.claims);
        let max_hops = claims().map(|claims| claims.max_hops).min().unwrap_or(0);
        let deadline = claims().map(|claims| claims.exp).min().unwrap_or(0);
        Self {
            max_hops: max_hops.min(originate.max_hops).min(allow.max_hops),
            deadline: UnixTime::from_secs(deadline.min(rule_deadline)),
            budget: originate.budget,
            rule_deadline,
        }
    }

    /// How many calls may be made downstream of a link.
    pub(super) fn budget_of(&self, link: &Link) -> u16 {
        link.claims.budget.min(self.budget)
    }

    /// When the account of a link is of no use any more. Deadlines never rise along a chain.
    pub(super) fn deadline_of(&self, link: &Link) -> u64 {
        link.claims.exp.min(self.rule_deadline)
    }
}
