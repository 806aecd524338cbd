//! Positions in a file, and what is wrong there.

use std::fmt;
use std::io;

use thiserror::Error;

/// How many findings [`InvalidConfig`] prints; the rest are counted.
const MAX_PRINTED: usize = 50;

/// A place in a file: line and column, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// The start of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong with a file, and where.
///
/// Messages name keys and rules. They repeat a value only where it can't be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its position.
    pub at: Position,
    /// What is wrong and what to do.
    pub message: String,
}

/// Something in a file that has no effect, and why. Printed as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file's name as it was given.
    pub file: String,
    /// Its position.
    pub at: Position,
    /// What is ignored and why.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.at, self.message)
    }
}

/// A configuration file that can't be used. Printed with one line per finding, in the order of the file.
#[derive(Debug, Error)]
pub enum InvalidConfig {
    /// The file can't be read.
    #[error("cannot read the configuration file {file}")]
    Unreadable {
        /// The file's name as it was given.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file isn't text in UTF-8.
    #[error("the configuration file {file} is not UTF-8 text")]
    NotText {
        /// The file's name as it was given.
        file: String,
    },
    /// The text is longer than [`MAX_TEXT`](crate::MAX_TEXT).
    #[error("the configuration file {file} is longer than the limit of {limit} bytes")]
    TooLong {
        /// The file's name as it was given.
        file: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The text breaks the syntax, or keys or values are wrong.
    #[error("{}", Listing { file, findings })]
    Wrong {
        /// The file's name as it was given.
        file: String,
        /// What is wrong, in the order of the file; never empty.
        findings: Vec<Finding>,
    },
}

impl InvalidConfig {
    /// What is wrong at which place; empty when the file couldn't be read at all.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Wrong { findings, .. } => findings,
            Self::Unreadable { .. } | Self::NotText { .. } | Self::TooLong { .. } => &[],
        }
    }

    pub(crate) fn wrong(file: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.at);
        Self::Wrong {
            file: file.to_owned(),
            findings,
        }
    }
}

/// Prints findings as `file:line:column: message`, one a line.
struct Listing<'a> {
    file: &'a str,
    findings: &'a [Finding],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().take(MAX_PRINTED).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: {}", self.file, finding.at, finding.message)?;
        }
        match self.findings.len().saturating_sub(MAX_PRINTED) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file),
        }
    }
}
