//! Selectors: what attestation found out about a node or a workload, as `type:value`.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Why a text or a pair is not a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSelector {
    /// The type is empty.
    #[error("missing selector type")]
    TypeMissing,
    /// The type has a colon.
    #[error("selector type contains ':'")]
    TypeColon,
    /// The value is empty.
    #[error("missing selector value")]
    ValueMissing,
    /// There is no colon between type and value.
    #[error("there is no colon")]
    NoColon,
}

/// One selector. Ordered by type, then value. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector(Arc<str>);

impl Selector {
    /// A selector of this type with this value.
    ///
    /// # Errors
    /// An empty type or value, or a type with a colon.
    pub fn new(kind: &str, value: &str) -> Result<Self, InvalidSelector> {
        if kind.contains(':') {
            return Err(InvalidSelector::TypeColon);
        }
        Self::parse(&format!("{kind}:{value}"))
    }

    /// Parses `type:value`; the value may have colons of its own.
    ///
    /// # Errors
    /// No colon, or an empty part.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let (kind, value) = text.split_once(':').ok_or(InvalidSelector::NoColon)?;
        if kind.is_empty() {
            return Err(InvalidSelector::TypeMissing);
        }
        if value.is_empty() {
            return Err(InvalidSelector::ValueMissing);
        }
        Ok(Self(text.into()))
    }

    /// The type, such as `unix`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.parts().0
    }

    /// The value, such as `uid:1000`.
    #[must_use]
    pub fn value(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or_default()
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sets of at most this many selectors are searched one by one.
const FEW: usize = 8;

/// A set of selectors, kept sorted and without repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SelectorSet(Box<[Selector]>);

impl SelectorSet {
    /// The selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this selector is in the set.
    #[must_use]
    pub fn contains(&self, selector: &Selector) -> bool {
        if self.0.len() <= FEW {
            // Equality is cheaper to test than order.
            self.0.contains(selector)
        } else {
            self.0.binary_search(selector).is_ok()
        }
    }

    /// Whether every selector of this set is in the other. An empty set is a subset of any.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.iter().all(|s| other.contains(s))
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut all: Vec<_> = selectors.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|t| Selector::parse(t).unwrap()).collect()
    }

    #[test]
    fn a_value_may_have_colons_a_type_may_not() {
        let selector = Selector::parse("unix:user:root").unwrap();
        assert_eq!((selector.kind(), selector.value()), ("unix", "user:root"));
        assert_eq!(selector.to_string(), "unix:user:root");
        assert_eq!(Selector::new("a:b", "c"), Err(InvalidSelector::TypeColon));
        assert_eq!(Selector::parse("unix"), Err(InvalidSelector::NoColon));
        assert_eq!(Selector::parse(":x"), Err(InvalidSelector::TypeMissing));
        assert_eq!(Selector::parse("unix:"), Err(InvalidSelector::ValueMissing));
    }

    #[test]
    fn selectors_are_ordered_by_type_before_value() {
        let sorted = set(&["ab:1", "a:2", "a-b:1", "a:1"]);
        let texts: Vec<String> = sorted.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a:1", "a:2", "a-b:1", "ab:1"]);
    }

    #[test]
    fn sets_ignore_order_and_repeats() {
        assert_eq!(set(&["a:2", "a:1", "a:2"]), set(&["a:1", "a:2"]));
        assert!(set(&["a:1"]).is_subset_of(&set(&["a:2", "a:1"])));
        assert!(!set(&["a:1", "b:1"]).is_subset_of(&set(&["a:1", "a:2"])));
        assert!(set(&[]).is_subset_of(&set(&[])));
    }
}
