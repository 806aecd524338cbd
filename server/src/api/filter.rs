//! Filters of lists and counts, from the wire.

use std::collections::BTreeSet;
use std::fmt;

use countersign_identity::selector::InvalidSelector;
use countersign_identity::{SelectorSet, TrustDomain, UnixTime};
use countersign_proto::convert::selector;
use countersign_proto::spire::api::server::agent::v1::count_agents_request::Filter as CountAgents;
use countersign_proto::spire::api::server::entry::v1::count_entries_request::Filter as CountEntries;
use countersign_proto::spire::api::types;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tonic::Code;

use super::id;
use super::status::ApiError;
use crate::index::{EntryFilter, Match, NodeFilter};
use crate::limits;

/// Go's `2006-01-02 15:04:05 -0700`; the ` -07` behind it repeats the hours.
const GO_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// The filter of CountEntries and, converted, of ListEntries.
pub(super) fn entries(
    filter: Option<CountEntries>,
    td: &TrustDomain,
) -> Result<EntryFilter, ApiError> {
    let CountEntries {
        by_spiffe_id,
        by_parent_id,
        by_selectors,
        by_federates_with,
        by_hint,
        by_downstream,
    } = filter.unwrap_or_default();
    let spiffe_id = by_spiffe_id
        .map(|wire| id::workload(Some(wire), td))
        .transpose()
        .map_err(|error| malformed("malformed SPIFFE ID filter", error))?;
    let parent_id = by_parent_id
        .map(|wire| id::member(Some(wire), td))
        .transpose()
        .map_err(|error| malformed("malformed parent ID filter", error))?;
    Ok(EntryFilter {
        spiffe_id,
        parent_id,
        selectors: by_selectors.map(entry_selectors).transpose()?,
        federates_with: by_federates_with.map(trust_domains).transpose()?,
        hint: by_hint.filter(|hint| !hint.is_empty()),
        // False does not filter: the CLI always sends it.
        downstream: by_downstream.filter(|downstream| *downstream),
    })
}

/// The filter of CountAgents and, converted, of ListAgents.
pub(super) fn nodes(filter: Option<CountAgents>, summary: &str) -> Result<NodeFilter, ApiError> {
    let CountAgents {
        by_attestation_type,
        by_selector_match,
        by_banned,
        by_can_reattest,
        by_expires_before,
    } = filter.unwrap_or_default();
    let selectors = match by_selector_match {
        // SPIRE's data store complains here, not its API: hence Internal.
        Some(asked) if asked.selectors.is_empty() => {
            let cause = "cannot filter by an empty selector set";
            return Err(ApiError::new(Code::Internal, summary, cause));
        }
        Some(asked) => {
            let how = match_behavior(asked.r#match)?;
            let set = selectors(asked.selectors)
                .map_err(|error| malformed("failed to parse selectors", error))?;
            Some((how, set))
        }
        None => None,
    };
    Ok(NodeFilter {
        attestation_type: Some(by_attestation_type).filter(|kind| !kind.is_empty()),
        selectors,
        banned: by_banned,
        can_reattest: by_can_reattest,
        expires_before: go_time(&by_expires_before),
    })
}

fn entry_selectors(asked: types::SelectorMatch) -> Result<(Match, SelectorSet), ApiError> {
    let summary = "malformed selectors filter";
    let types::SelectorMatch {
        selectors: list,
        r#match,
    } = asked;
    if list.is_empty() {
        return Err(malformed(summary, "empty selector set"));
    }
    let how = match_behavior(r#match)?;
    let set = selectors(list).map_err(|error| malformed(summary, error))?;
    Ok((how, set))
}

/// Why selectors can't be filtered by.
#[derive(Debug, thiserror::Error)]
enum UnusableSelectors {
    #[error("more than {} selectors", limits::MAX_FILTER_ITEMS)]
    TooMany,
    #[error(transparent)]
    Invalid(#[from] InvalidSelector),
}

fn selectors(list: Vec<types::Selector>) -> Result<SelectorSet, UnusableSelectors> {
    if list.len() > limits::MAX_FILTER_ITEMS {
        return Err(UnusableSelectors::TooMany);
    }
    Ok(selector::set(list)?)
}

fn trust_domains(
    asked: types::FederatesWithMatch,
) -> Result<(Match, BTreeSet<TrustDomain>), ApiError> {
    let summary = "malformed federates with filter";
    let types::FederatesWithMatch {
        trust_domains,
        r#match,
    } = asked;
    if trust_domains.is_empty() {
        return Err(malformed(summary, "empty trust domain set"));
    }
    if trust_domains.len() > limits::MAX_FILTER_ITEMS {
        let cause = format_args!("more than {} trust domains", limits::MAX_FILTER_ITEMS);
        return Err(malformed(summary, cause));
    }
    let set = trust_domains
        .iter()
        .map(|name| TrustDomain::from_name_or_id(name))
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(summary, error))?;
    Ok((match_behavior(r#match)?, set))
}

/// `SelectorMatch` and `FederatesWithMatch` number their behaviors alike.
fn match_behavior(number: i32) -> Result<Match, ApiError> {
    use types::selector_match::MatchBehavior;

    match MatchBehavior::try_from(number) {
        Ok(MatchBehavior::MatchExact) => Ok(Match::Exact),
        Ok(MatchBehavior::MatchSubset) => Ok(Match::Subset),
        Ok(MatchBehavior::MatchSuperset) => Ok(Match::Superset),
        Ok(MatchBehavior::MatchAny) => Ok(Match::Any),
        Err(_) => Err(ApiError::invalid(format!(
            "unknown match behavior {number}"
        ))),
    }
}

fn malformed(summary: &str, cause: impl fmt::Display) -> ApiError {
    ApiError::new(Code::InvalidArgument, summary, cause)
}

/// A time in Go's layout `2006-01-02 15:04:05 -0700 -07`. A text in another form does not filter, as with SPIRE.
fn go_time(text: &str) -> Option<UnixTime> {
    let (time, zone) = text.rsplit_once(' ')?;
    let sign = zone.strip_prefix(['+', '-'])?;
    if sign.len() != 2 || !sign.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let time = OffsetDateTime::parse(time, GO_TIME).ok()?;
    Some(UnixTime::from_i64(time.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::new("td").unwrap()
    }

    fn wire_id(td: &str, path: &str) -> types::Spiffeid {
        types::Spiffeid {
            trust_domain: td.into(),
            path: path.into(),
        }
    }

    fn refused(filter: CountEntries) -> String {
        let status = tonic::Status::from(entries(Some(filter), &td()).unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn only_gos_time_layout_is_understood() {
        let at = |text| go_time(text).map(UnixTime::as_secs);
        assert_eq!(at("1970-01-02 00:00:00 +0000 +00"), Some(86_400));
        assert_eq!(at("1970-01-02 02:00:00 +0200 +02"), Some(86_400));
        for text in [
            "",
            "1970-01-02",
            "1970-01-02 00:00:00 +0000",
            "1970-01-02T00:00:00Z",
            "x y",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn false_and_empty_do_not_filter() {
        let filter = CountEntries {
            by_hint: Some(String::new()),
            by_downstream: Some(false),
            ..Default::default()
        };
        assert!(entries(Some(filter), &td()).unwrap().is_empty());
        let filter = CountEntries {
            by_hint: Some("h".into()),
            by_downstream: Some(true),
            ..Default::default()
        };
        let filter = entries(Some(filter), &td()).unwrap();
        assert_eq!(
            (filter.hint.as_deref(), filter.downstream),
            (Some("h"), Some(true))
        );
    }

    #[test]
    fn each_bad_part_is_refused() {
        let by_id = |id| CountEntries {
            by_spiffe_id: Some(id),
            ..Default::default()
        };
        for bad in [
            wire_id("other", "/a"),
            wire_id("td", "/spire/x"),
            wire_id("td", ""),
        ] {
            assert!(refused(by_id(bad)).starts_with("malformed SPIFFE ID filter: "));
        }
        let by_parent = |id| CountEntries {
            by_parent_id: Some(id),
            ..Default::default()
        };
        assert!(entries(Some(by_parent(wire_id("td", "/spire/server"))), &td()).is_ok());
        for bad in [
            wire_id("other", "/a"),
            wire_id("td", ""),
            wire_id("td", "a"),
        ] {
            assert!(refused(by_parent(bad)).starts_with("malformed parent ID filter: "));
        }
        let by_selectors = |selectors| CountEntries {
            by_selectors: Some(types::SelectorMatch {
                selectors,
                r#match: 0,
            }),
            ..Default::default()
        };
        assert!(refused(by_selectors(vec![])).contains("empty selector set"));
        assert!(
            refused(by_selectors(vec![types::Selector::default()]))
                .contains("missing selector type")
        );
        let by_domains = |trust_domains| CountEntries {
            by_federates_with: Some(types::FederatesWithMatch {
                trust_domains,
                r#match: 0,
            }),
            ..Default::default()
        };
        assert!(refused(by_domains(vec![])).contains("empty trust domain set"));
        assert!(refused(by_domains(vec!["Bad".into()])).starts_with("malformed federates with"));
    }

    #[test]
    fn an_empty_selector_set_of_agents_is_an_internal_error() {
        let filter = CountAgents {
            by_selector_match: Some(types::SelectorMatch::default()),
            ..Default::default()
        };
        let status = tonic::Status::from(nodes(Some(filter), "failed to list agents").unwrap_err());
        assert_eq!(status.code(), Code::Internal);
    }
}
