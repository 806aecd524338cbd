//! What verbs read from files and from standard input.

use std::fs::File;
use std::io::{self, Read};

use crate::error::CommandError;

/// The longest input, in bytes: what one request can carry.
const MAX_INPUT: u64 = 4 * 1024 * 1024;
/// Stands for standard input.
pub(crate) const STDIN: &str = "-";

/// What is in a file, or on standard input.
pub(crate) fn bytes(path: &str) -> Result<Vec<u8>, CommandError> {
    let read = if path == STDIN {
        read_bounded(io::stdin())
    } else {
        File::open(path).and_then(read_bounded)
    };
    read.map_err(|e| refused(path, &e.to_string()))
}

/// The file as people know it.
pub(crate) fn shown(path: &str) -> &str {
    if path == STDIN {
        "standard input"
    } else {
        path
    }
}

/// That a file can't be used.
pub(crate) fn refused(path: &str, why: &str) -> CommandError {
    CommandError::File {
        path: shown(path).into(),
        why: why.to_owned(),
    }
}

fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_INPUT) {
        return Err(io::Error::other(format!(
            "it is longer than {MAX_INPUT} bytes"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused() {
        assert!(read_bounded(io::repeat(b' ')).is_err());
    }
}
