//! `--addressFile`: where a daemon listens, written once all its listeners serve.
//!
//! With port 0 the system chooses the port, and this file is how others learn of it. One line per listener:
//! `tcp=127.0.0.1:41231` or `unix=/run/agent/api.sock`, and for operators `health=` and `metrics=` with an address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_transport::file::{self, WriteError};

/// One place where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// Health over HTTP.
    Health(SocketAddr),
    /// Metrics for Prometheus.
    Metrics(SocketAddr),
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp={address}"),
            Self::Unix(path) => write!(f, "unix={}", path.display()),
            Self::Health(address) => write!(f, "health={address}"),
            Self::Metrics(address) => write!(f, "metrics={address}"),
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

/// The file of an earlier run could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("the address file of an earlier run, {}, can't be removed", path.display())]
pub struct ForgetError {
    path: PathBuf,
    source: io::Error,
}

/// Removes the file of an earlier run, so that a process that waits for the file does not read old addresses.
///
/// # Errors
/// The file exists but can't be removed.
pub fn forget(path: &Path) -> Result<(), ForgetError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ForgetError {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Reads such a file; lines of unknown kinds are ignored.
///
/// # Errors
/// The file could not be read, or an address in it is malformed.
pub fn read(path: &Path) -> io::Result<Vec<Listening>> {
    let text = std::fs::read_to_string(path)?;
    let places = text.lines().filter_map(|line| {
        let (kind, place) = line.split_once('=')?;
        let address = |listening: fn(SocketAddr) -> Listening| {
            let bad = |e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{place:?} is not an address: {e}"),
                )
            };
            place.parse().map(listening).map_err(bad)
        };
        match kind {
            "tcp" => Some(address(Listening::Tcp)),
            "unix" => Some(Ok(Listening::Unix(place.into()))),
            "health" => Some(address(Listening::Health)),
            "metrics" => Some(address(Listening::Metrics)),
            _ => None,
        }
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
            Listening::Metrics("127.0.0.1:9988".parse().unwrap()),
        ];
        write(&path, &places).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "tcp=127.0.0.1:8081\nunix=/run/a=b.sock\nmetrics=127.0.0.1:9988\n"
        );
        assert_eq!(read(&path).unwrap(), places);
    }
}
