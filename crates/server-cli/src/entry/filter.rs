//! Which entries `show` and `count` select.

use clap::Args;
use countersign_proto::spire::api::server::entry::v1::list_entries_request;
use countersign_proto::spire::api::types;

use crate::flag::{self, InvalidFlag, Match};

/// Conditions that an entry meets, all of them.
#[derive(Debug, Args)]
pub(super) struct EntryFilter {
    /// The parent ID of the records
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// The SPIFFE ID of the records
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Only entries that describe a downstream server
    #[arg(long)]
    downstream: bool,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// SPIFFE ID of a trust domain an entry is federated with. Can be used more than once
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// The match mode used when filtering by federates with
    #[arg(long = "matchFederatesWithOn", value_enum, default_value_t = Match::Superset, value_name = "MODE")]
    match_federates_with_on: Match,
    /// The match mode used when filtering by selectors
    #[arg(long = "matchSelectorsOn", value_enum, default_value_t = Match::Superset, value_name = "MODE")]
    match_selectors_on: Match,
    /// The hint of the records
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
}

impl EntryFilter {
    /// Whether it names an entry's parent, ID or selectors.
    pub(super) fn is_narrow(&self) -> bool {
        self.parent_id.is_some() || self.spiffe_id.is_some() || !self.selectors.is_empty()
    }

    /// As the API takes it.
    pub(super) fn to_list(&self) -> Result<list_entries_request::Filter, InvalidFlag> {
        let id = |text: &Option<String>| {
            text.as_deref()
                .filter(|text| !text.is_empty())
                .map(flag::spiffe_id)
                .transpose()
        };
        let federates_with =
            types::federates_with_match::MatchBehavior::from(self.match_federates_with_on);
        Ok(list_entries_request::Filter {
            by_spiffe_id: id(&self.spiffe_id)?,
            by_parent_id: id(&self.parent_id)?,
            by_selectors: flag::selector_match(&self.selectors, self.match_selectors_on)?,
            by_federates_with: (!self.federates_with.is_empty()).then(|| {
                types::FederatesWithMatch {
                    trust_domains: self.federates_with.clone(),
                    r#match: federates_with.into(),
                }
            }),
            by_hint: self.hint.clone().filter(|hint| !hint.is_empty()),
            by_downstream: Some(self.downstream),
        })
    }
}
