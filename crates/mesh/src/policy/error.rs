//! What is wrong in a policy text, as data: where, which kind of error, what to write instead.

use std::fmt;

/// A policy text that was refused whole, because some of it is wrong. The last good policy stays in force
/// (`docs/call-chains.md`, section 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPolicy {
    errors: Vec<PolicyError>,
}

impl InvalidPolicy {
    /// From at least one error, in any order.
    pub(super) fn new(mut errors: Vec<PolicyError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self { errors }
    }

    /// Everything that is wrong in the text, at least one error, in the order of the text.
    #[must_use]
    pub fn errors(&self) -> &[PolicyError] {
        &self.errors
    }
}

impl fmt::Display for InvalidPolicy {
    /// One error a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidPolicy {}

/// One thing that is wrong in a policy text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
#[non_exhaustive]
pub struct PolicyError {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1, in characters.
    pub column: usize,
    /// Which rule of the language the text breaks.
    pub kind: PolicyErrorKind,
    /// What is wrong and what to write instead, as a sentence for the author of the policy. It quotes the text.
    pub message: String,
    /// For an unknown block or attribute: the known name that is nearest to it, if one is near.
    pub near: Option<&'static str>,
}

/// Which rule of the policy language a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// The text is larger than [`MAX_POLICY_LEN`](super::MAX_POLICY_LEN).
    TooLarge,
    /// The text is not HCL.
    Syntax,
    /// There is no block of this name.
    UnknownBlock,
    /// The block has no attribute of this name.
    UnknownAttribute,
    /// This version does not support the attribute yet.
    Unsupported,
    /// A block or an attribute stands where none may stand.
    Misplaced,
    /// A required attribute is missing.
    Missing,
    /// A rule has no name, an empty one, or that of an earlier rule; or there is a second `defaults` block.
    RuleName,
    /// The value has the wrong type or form, or exceeds a bound.
    InvalidValue,
    /// Two rules contradict each other.
    Conflict,
}

/// How similar a known name must be to count as near: as in `max_hop` and `max_hops`.
const NEAR: f64 = 0.75;

/// The known name that is nearest to an unknown one.
pub(super) fn nearest(
    unknown: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    // Comparing costs the product of both lengths, and a policy may hold one name of two megabytes.
    if unknown.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(unknown, name), name))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
