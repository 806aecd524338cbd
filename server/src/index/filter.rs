//! Filters of lists.

use std::collections::BTreeSet;

use countersign_identity::{Entry, Node, SelectorSet, SpiffeId, TrustDomain, UnixTime};

/// How an object's set is compared with the set of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The sets are equal.
    Exact,
    /// The object's set is a subset, and not empty.
    Subset,
    /// The object's set is a superset.
    Superset,
    /// The sets have a common element.
    Any,
}

impl Match {
    /// Whether sets of these sizes with this many common elements match.
    const fn holds(self, object: usize, asked: usize, common: usize) -> bool {
        match self {
            Self::Exact => common == object && common == asked,
            Self::Subset => common == object && common > 0,
            Self::Superset => common == asked,
            Self::Any => common > 0,
        }
    }

    /// Whether an object with these selectors matches.
    #[must_use]
    pub(crate) fn selectors(self, object: &SelectorSet, asked: &SelectorSet) -> bool {
        let common = object
            .iter()
            .filter(|selector| asked.contains(selector))
            .count();
        self.holds(object.len(), asked.len(), common)
    }

    /// Whether an object with these trust domains matches.
    #[must_use]
    pub(crate) fn trust_domains(
        self,
        object: &[TrustDomain],
        asked: &BTreeSet<TrustDomain>,
    ) -> bool {
        let object: BTreeSet<&TrustDomain> = object.iter().collect();
        let common = object.iter().filter(|td| asked.contains(**td)).count();
        self.holds(object.len(), asked.len(), common)
    }
}

/// A filter of entries: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFilter {
    /// With this SPIFFE ID.
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// With this parent.
    pub(crate) parent_id: Option<SpiffeId>,
    /// With selectors like these.
    pub(crate) selectors: Option<(Match, SelectorSet)>,
    /// That federate with trust domains like these.
    pub(crate) federates_with: Option<(Match, BTreeSet<TrustDomain>)>,
    /// With this hint.
    pub(crate) hint: Option<String>,
    /// With or without the downstream flag.
    pub(crate) downstream: Option<bool>,
}

impl EntryFilter {
    /// Whether there is no condition.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this entry is wanted.
    #[must_use]
    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        let Self {
            spiffe_id,
            parent_id,
            selectors,
            federates_with,
            hint,
            downstream,
        } = self;
        spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
            && parent_id.as_ref().is_none_or(|id| *id == entry.parent_id)
            && hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && downstream.is_none_or(|downstream| downstream == entry.downstream)
            && selectors
                .as_ref()
                .is_none_or(|(how, asked)| how.selectors(&entry.selectors, asked))
            && federates_with
                .as_ref()
                .is_none_or(|(how, asked)| how.trust_domains(&entry.federates_with, asked))
    }
}

/// A filter of nodes: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFilter {
    /// Attested by this attestor.
    pub(crate) attestation_type: Option<String>,
    /// With selectors like these.
    pub(crate) selectors: Option<(Match, SelectorSet)>,
    /// Banned, or not.
    pub(crate) banned: Option<bool>,
    /// Able to attest again, or not.
    pub(crate) can_reattest: Option<bool>,
    /// Whose SVID expires before this moment. A banned node has none.
    pub(crate) expires_before: Option<UnixTime>,
}

impl NodeFilter {
    /// Whether this node is wanted.
    #[must_use]
    pub(crate) fn wants(&self, node: &Node) -> bool {
        let Self {
            attestation_type,
            selectors,
            banned,
            can_reattest,
            expires_before,
        } = self;
        attestation_type
            .as_ref()
            .is_none_or(|kind| *kind == node.attestation_type)
            && banned.is_none_or(|banned| banned == node.is_banned())
            && can_reattest.is_none_or(|can| can == node.can_reattest)
            && expires_before.is_none_or(|moment| {
                node.current
                    .as_ref()
                    .is_some_and(|svid| svid.expires_at < moment)
            })
            && selectors
                .as_ref()
                .is_none_or(|(how, asked)| how.selectors(&node.selectors, asked))
    }
}
