//! Two questions to a container engine, over HTTP on its Unix socket.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::limits;

/// Where an engine listens.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    /// Of paths: the version of the API.
    prefix: String,
}

/// Its description of a container.
#[derive(Debug)]
pub(super) enum Answer {
    Found(Container),
    /// It has none with this ID: it is another engine's.
    Unknown,
}

/// The parsed fields of a container's description.
#[derive(Debug, Deserialize)]
pub(super) struct Container {
    #[serde(rename = "Id")]
    id: String,
    /// The image that it was made from, by its digest.
    #[serde(rename = "Image", default)]
    image: String,
    #[serde(rename = "State")]
    state: ContainerState,
    #[serde(rename = "Config")]
    pub(super) config: Config,
}

#[derive(Debug, Deserialize)]
struct ContainerState {
    #[serde(rename = "Running", default)]
    running: bool,
    #[serde(rename = "Pid", default)]
    pid: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    /// The image by the name with which the container was created.
    #[serde(rename = "Image", default)]
    pub(super) image: String,
    #[serde(rename = "Labels")]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "Env")]
    pub(super) environment: Option<Vec<String>>,
}

/// Why an engine was of no use. The engine is named by its socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// It can't be reached.
    #[error(
        "could not ask the container engine at {engine}: {reason}; is it running, and is this its socket?"
    )]
    Unreachable {
        /// Which.
        engine: String,
        /// What was wrong.
        reason: String,
    },
    /// Its answer was an error or malformed.
    #[error("the container engine at {engine} answered {what}")]
    Strange {
        /// Which.
        engine: String,
        /// What it said.
        what: String,
    },
    /// The container is about to end, or was started anew meanwhile.
    #[error("the container engine at {0} says that the caller's container does not run")]
    NotRunning(String),
    /// The cgroup's name is like that of a container, and it is not the container's.
    #[error(
        "the caller's cgroup is named like a container of the engine at {0}, and is not that container's: it pretends"
    )]
    NotInside(String),
    /// Too much to be compared with entries.
    #[error("the container has {0} labels and variables, more than {max}", max = limits::CONTAINER_SELECTORS)]
    TooMany(usize),
}

impl Container {
    /// Its first process, if it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        Some(self.state.pid).filter(|pid| self.state.running && *pid > 0)
    }

    pub(super) fn image_digest(&self) -> Option<String> {
        let hex = self.image.strip_prefix("sha256:").unwrap_or(&self.image);
        (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| format!("sha256:{hex}"))
    }
}

impl Engine {
    pub(super) fn new(socket: PathBuf, version: Option<&str>) -> Self {
        let prefix = version.map(|version| format!("/v{}", version.trim_start_matches('v')));
        Self {
            socket,
            prefix: prefix.unwrap_or_default(),
        }
    }

    /// The container with exactly this ID. The caller bounds the time.
    pub(super) async fn inspect(&self, id: &str) -> Result<Answer, EngineError> {
        let path = format!("{}/containers/{id}/json", self.prefix);
        let (status, body) = self.get(&path).await?;
        let strange = |what: String| EngineError::Strange {
            engine: self.to_string(),
            what,
        };
        match status {
            http::StatusCode::OK => {}
            http::StatusCode::NOT_FOUND => return Ok(Answer::Unknown),
            other => return Err(strange(other.to_string())),
        }
        let container: Container = serde_json::from_slice(&body)
            .map_err(|error| strange(format!("what is no container: {error}")))?;
        // The API also accepts names and prefixes of IDs: the answer must be for exactly this ID.
        if container.id == id {
            Ok(Answer::Found(container))
        } else {
            Err(strange(format!("with another container than {id}")))
        }
    }

    async fn get(&self, path: &str) -> Result<(http::StatusCode, Bytes), EngineError> {
        let unreachable = |reason: String| EngineError::Unreachable {
            engine: self.to_string(),
            reason,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = http::Request::get(path)
            .header(http::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|e| unreachable(e.to_string()))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limits::ENGINE_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| EngineError::Strange {
                engine: self.to_string(),
                what: format!(
                    "and broke off, or with more than {} bytes: {e}",
                    limits::ENGINE_ANSWER_BYTES
                ),
            })?;
        Ok((status, body.to_bytes()))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.display().fmt(f)
    }
}
