//! Filters: those of counts have the fields of those of lists.

use crate::spire::api::server::agent::v1::{count_agents_request, list_agents_request};
use crate::spire::api::server::entry::v1::{count_entries_request, list_entries_request};

impl From<list_entries_request::Filter> for count_entries_request::Filter {
    fn from(filter: list_entries_request::Filter) -> Self {
        Self {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        }
    }
}

impl From<list_agents_request::Filter> for count_agents_request::Filter {
    fn from(filter: list_agents_request::Filter) -> Self {
        Self {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        }
    }
}
