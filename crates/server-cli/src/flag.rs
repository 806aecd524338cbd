//! Values of flags that several verbs share, checked before anything is sent.

use clap::ValueEnum;
use countersign_identity::{Selector, SpiffeId};
use countersign_proto::spire::api::types;

use crate::error::CommandError;

/// How a filter's selectors or trust domains are compared with an item's: SPIRE's four ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Match {
    /// The same ones
    Exact,
    /// At least one in common
    Any,
    /// The item has all of the filter's, and maybe more
    Superset,
    /// The item has none but the filter's
    Subset,
}

impl From<Match> for types::selector_match::MatchBehavior {
    fn from(how: Match) -> Self {
        match how {
            Match::Exact => Self::MatchExact,
            Match::Any => Self::MatchAny,
            Match::Superset => Self::MatchSuperset,
            Match::Subset => Self::MatchSubset,
        }
    }
}

impl From<Match> for types::federates_with_match::MatchBehavior {
    fn from(how: Match) -> Self {
        match how {
            Match::Exact => Self::MatchExact,
            Match::Any => Self::MatchAny,
            Match::Superset => Self::MatchSuperset,
            Match::Subset => Self::MatchSubset,
        }
    }
}

/// A SPIFFE ID as the API takes it.
pub(crate) fn spiffe_id(text: &str) -> Result<types::Spiffeid, CommandError> {
    let id = SpiffeId::parse(text)
        .map_err(|e| CommandError::usage(format!("{text:?} is not a SPIFFE ID: {e}")))?;
    Ok(types::Spiffeid {
        trust_domain: id.trust_domain_name().into(),
        path: id.path().into(),
    })
}

/// A SPIFFE ID without which the verb makes no sense.
pub(crate) fn required_id(
    text: Option<&str>,
    missing: &str,
) -> Result<types::Spiffeid, CommandError> {
    spiffe_id(
        text.filter(|text| !text.is_empty())
            .ok_or_else(|| CommandError::usage(missing))?,
    )
}

/// A SPIFFE ID, as people read it.
pub(crate) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Selectors as the API takes them.
pub(crate) fn selectors(texts: &[String]) -> Result<Vec<types::Selector>, CommandError> {
    let parse = |text: &String| {
        let selector = Selector::parse(text).map_err(|e| {
            CommandError::usage(format!(
                "selector {text:?} must be formatted as type:value: {e}"
            ))
        })?;
        Ok(types::Selector {
            r#type: selector.kind().into(),
            value: selector.value().into(),
        })
    };
    texts.iter().map(parse).collect()
}

/// A filter by selectors; none if there are none.
pub(crate) fn selector_match(
    texts: &[String],
    how: Match,
) -> Result<Option<types::SelectorMatch>, CommandError> {
    if texts.is_empty() {
        return Ok(None);
    }
    let how = types::selector_match::MatchBehavior::from(how);
    Ok(Some(types::SelectorMatch {
        selectors: selectors(texts)?,
        r#match: how.into(),
    }))
}

/// `singular` or `plural`, by the number.
pub(crate) fn plural(count: usize, singular: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { singular } else { plural })
}

/// A time in UTC by RFC 3339, such as `2026-01-31T10:00:00Z`.
pub(crate) fn rfc3339(secs: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(secs).ok();
    time.and_then(|time| {
        time.format(&time::format_description::well_known::Rfc3339)
            .ok()
    })
    .unwrap_or_else(|| secs.to_string())
}

/// A time as Go prints it in UTC, such as `2026-01-31 10:00:00 +0000 UTC`.
pub(crate) fn go_time(secs: i64) -> String {
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC"
    );
    let time = time::OffsetDateTime::from_unix_timestamp(secs).ok();
    time.and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| secs.to_string())
}
