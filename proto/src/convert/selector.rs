//! Selectors and sets of them.

use countersign_identity::selector::InvalidSelector;
use countersign_identity::{Selector, SelectorSet};

use crate::spire::api::types;

/// Why a list is not a set of selectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSelectors {
    /// One of them is no selector.
    #[error("{0}")]
    Selector(#[from] InvalidSelector),
    /// One of them comes twice.
    #[error("selector \"{0}\" is repeated")]
    Repeated(Selector),
}

impl TryFrom<types::Selector> for Selector {
    type Error = InvalidSelector;

    fn try_from(selector: types::Selector) -> Result<Self, InvalidSelector> {
        let types::Selector { r#type, value } = selector;
        Self::new(&r#type, &value)
    }
}

impl From<&Selector> for types::Selector {
    fn from(selector: &Selector) -> Self {
        Self {
            r#type: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        }
    }
}

/// A set on the wire, in order.
#[must_use]
pub fn to_wire(set: &SelectorSet) -> Vec<types::Selector> {
    set.iter().map(Into::into).collect()
}

/// A set from the wire; repeats are dropped.
///
/// # Errors
/// The first that is no selector.
pub fn set(selectors: Vec<types::Selector>) -> Result<SelectorSet, InvalidSelector> {
    selectors.into_iter().map(Selector::try_from).collect()
}

/// A set from the wire, without repeats.
///
/// # Errors
/// The first that is no selector, or one that comes twice.
pub fn distinct(selectors: Vec<types::Selector>) -> Result<SelectorSet, InvalidSelectors> {
    let mut all: Vec<Selector> = selectors
        .into_iter()
        .map(Selector::try_from)
        .collect::<Result<_, _>>()?;
    all.sort_unstable();
    let repeated = all.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(one.clone()),
        _ => None,
    });
    match repeated {
        Some(selector) => Err(InvalidSelectors::Repeated(selector)),
        None => Ok(all.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(kind: &str, value: &str) -> types::Selector {
        types::Selector {
            r#type: kind.into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_set_survives_the_wire() {
        let wired = vec![wire("unix", "gid:1"), wire("unix", "uid:1")];
        let got = distinct(wired.clone()).unwrap();
        assert_eq!(to_wire(&got), wired);
    }

    #[test]
    fn each_bad_part_is_refused() {
        let bad = |selector| set(vec![wire("a", "b"), selector]).unwrap_err();
        assert_eq!(bad(wire("", "b")), InvalidSelector::TypeMissing);
        assert_eq!(bad(wire("a:b", "c")), InvalidSelector::TypeColon);
        assert_eq!(bad(wire("a", "")), InvalidSelector::ValueMissing);
    }

    #[test]
    fn repeats_are_dropped_or_refused() {
        let twice = vec![wire("a", "b"), wire("c", "d"), wire("a", "b")];
        assert_eq!(set(twice.clone()).unwrap().len(), 2);
        let selector = Selector::new("a", "b").unwrap();
        assert_eq!(distinct(twice), Err(InvalidSelectors::Repeated(selector)));
    }
}
