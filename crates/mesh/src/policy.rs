//! The mesh policy: who may start chains, who may call whom, and within which limits.
//!
//! `docs/call-chains.md`, section 7.

use std::fmt;

/// The largest policy text, in bytes.
pub const MAX_POLICY_LEN: usize = 2 * 1024 * 1024;

/// A checked and compiled policy. Immutable: a new version is a new value.
#[derive(Debug)]
pub struct Policy {}

/// One thing that is wrong in a policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One-based.
    pub line: usize,
    /// One-based, in characters.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// A policy text that was refused whole, with everything that is wrong in it, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPolicy {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidPolicy {}

impl Policy {
    /// Reads a policy in HCL and compiles it.
    ///
    /// # Errors
    /// Every fault in the text, each with its line and column.
    pub fn parse(_text: &str) -> Result<Self, InvalidPolicy> {
        Ok(Self {})
    }

    /// The policy of a trust domain that has none: everything is refused.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {}
    }
}
