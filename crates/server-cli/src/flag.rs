//! Values of flags that several verbs share, checked before anything is sent, and how they are printed.

use clap::ValueEnum;
use countersign_identity::selector::InvalidSelector;
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{Selector, SpiffeId};
use countersign_proto::spire::api::types;

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

/// The API has an enumeration of the same four ways for each of its filters.
macro_rules! match_behavior {
    ($($filter:ident),+) => {$(
        impl From<Match> for types::$filter::MatchBehavior {
            fn from(how: Match) -> Self {
                match how {
                    Match::Exact => Self::MatchExact,
                    Match::Any => Self::MatchAny,
                    Match::Superset => Self::MatchSuperset,
                    Match::Subset => Self::MatchSubset,
                }
            }
        }
    )+};
}

match_behavior!(selector_match, federates_with_match);

/// Why the value of a flag makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidFlag {
    /// It is missing, and the verb makes no sense without it; in SPIRE's words.
    #[error("{0}")]
    Missing(&'static str),
    /// Not a SPIFFE ID.
    #[error("{text:?} is not a SPIFFE ID")]
    Id {
        /// The value.
        text: String,
        /// The rule that it breaks.
        source: InvalidId,
    },
    /// Not a selector.
    #[error("selector {text:?} must be formatted as type:value")]
    Selector {
        /// The value.
        text: String,
        /// The rule that it breaks.
        source: InvalidSelector,
    },
    /// Not a time.
    #[error("date is not valid: {text:?} is not written as {layout:?}")]
    Time {
        /// The value.
        text: String,
        /// How a time is written, in Go's way.
        layout: &'static str,
    },
    /// Not a level of the log.
    #[error("the value {0:?} is not a valid setting")]
    LogLevel(String),
    /// A lifetime that the API can't carry.
    #[error("invalid value for TTL: it is too long")]
    Ttl,
    /// An instance was named, and no template says where its socket is.
    #[error("-instance needs the environment variable {variable}, with a {placeholder} in it")]
    Instance {
        /// The variable that holds the template.
        variable: &'static str,
        /// What the instance replaces in it.
        placeholder: &'static str,
    },
}

/// The value of a flag or variable; an empty one counts as none, as with SPIRE.
pub(crate) fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

/// The value of a flag without which the verb makes no sense.
pub(crate) fn required(
    value: Option<String>,
    missing: &'static str,
) -> Result<String, InvalidFlag> {
    given(value).ok_or(InvalidFlag::Missing(missing))
}

pub(crate) fn parse_id(text: &str) -> Result<SpiffeId, InvalidFlag> {
    SpiffeId::parse(text).map_err(|source| InvalidFlag::Id {
        text: text.to_owned(),
        source,
    })
}

/// A SPIFFE ID as the API takes it.
pub(crate) fn spiffe_id(text: &str) -> Result<types::Spiffeid, InvalidFlag> {
    Ok((&parse_id(text)?).into())
}

/// A SPIFFE ID without which the verb makes no sense.
pub(crate) fn required_id(
    value: Option<String>,
    missing: &'static str,
) -> Result<types::Spiffeid, InvalidFlag> {
    spiffe_id(&required(value, missing)?)
}

/// A SPIFFE ID, as people read it.
pub(crate) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Selectors as the API takes them.
pub(crate) fn selectors(texts: &[String]) -> Result<Vec<types::Selector>, InvalidFlag> {
    let parse = |text: &String| {
        let selector = Selector::parse(text).map_err(|source| InvalidFlag::Selector {
            text: text.clone(),
            source,
        })?;
        Ok((&selector).into())
    };
    texts.iter().map(parse).collect()
}

/// A filter by selectors; none if there are none.
pub(crate) fn selector_match(
    texts: &[String],
    how: Match,
) -> Result<Option<types::SelectorMatch>, InvalidFlag> {
    if texts.is_empty() {
        return Ok(None);
    }
    Ok(Some(types::SelectorMatch {
        selectors: selectors(texts)?,
        r#match: types::selector_match::MatchBehavior::from(how).into(),
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
