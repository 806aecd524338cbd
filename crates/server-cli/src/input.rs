//! What verbs read from files and from standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// The longest input, in bytes: what one request can carry.
const MAX_INPUT: u64 = 4 * 1024 * 1024;
/// Stands for standard input.
pub(crate) const STDIN: &str = "-";

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", path.display())]
pub(crate) struct InvalidInput {
    path: PathBuf,
    source: InputError,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is longer than this many bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    /// It is not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is not JSON with federation relationships.
    #[error("failed to parse JSON")]
    Relationships(#[source] serde_json::Error),
}

impl InputError {
    /// That this file can't be used.
    pub(crate) fn of(self, path: &str) -> InvalidInput {
        InvalidInput {
            path: shown(path).into(),
            source: self,
        }
    }
}

/// What is in a file, or on standard input.
pub(crate) fn bytes(path: &str) -> Result<Vec<u8>, InvalidInput> {
    let read = if path == STDIN {
        read_bounded(io::stdin(), MAX_INPUT)
    } else {
        File::open(path)
            .map_err(InputError::from)
            .and_then(|file| read_bounded(file, MAX_INPUT))
    };
    read.map_err(|error| error.of(path))
}

/// The file as people know it.
pub(crate) fn shown(path: &str) -> &str {
    if path == STDIN {
        "standard input"
    } else {
        path
    }
}

fn read_bounded(source: impl Read, limit: u64) -> Result<Vec<u8>, InputError> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
        return Err(InputError::TooLong(limit));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused() {
        assert!(matches!(
            read_bounded(io::repeat(b' '), 10),
            Err(InputError::TooLong(10))
        ));
    }
}
