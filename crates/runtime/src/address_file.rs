//! `--addressFile`: where a daemon listens, written once all its listeners serve.
//!
//! With port 0 the system chooses the port, and this file is how others learn of it. One line per listener:
//! `tcp=127.0.0.1:41231` or `unix=/run/agent/api.sock`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::file::{self, WriteError};

/// One place where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp={address}"),
            Self::Unix(path) => write!(f, "unix={}", path.display()),
        }
    }
}

/// Writes the file, whole or not at all.
///
/// # Errors
/// The file could not be written.
pub fn write(path: &Path, places: &[Listening]) -> Result<(), WriteError> {
    let text: String = places.iter().map(|place| format!("{place}\n")).collect();
    file::write_atomically(path, text.as_bytes(), file::PUBLIC)
}

/// Reads such a file; lines of other kinds are passed over.
///
/// # Errors
/// The file could not be read, or an address in it is none.
pub fn read(path: &Path) -> io::Result<Vec<Listening>> {
    let text = std::fs::read_to_string(path)?;
    let places = text.lines().filter_map(|line| match line.split_once('=')? {
        ("tcp", address) => {
            let bad = |e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{address:?} is not an address: {e}"),
                )
            };
            Some(address.parse().map(Listening::Tcp).map_err(bad))
        }
        ("unix", path) => Some(Ok(Listening::Unix(path.into()))),
        _ => None,
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses");
        let places = [
            Listening::Tcp("127.0.0.1:8081".parse().unwrap()),
            Listening::Unix("/run/a=b.sock".into()),
        ];
        write(&path, &places).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "tcp=127.0.0.1:8081\nunix=/run/a=b.sock\n"
        );
        assert_eq!(read(&path).unwrap(), places);
    }
}
