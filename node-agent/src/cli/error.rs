//! Errors of the commands, with advice.

use std::io;
use std::path::PathBuf;

use countersign_transport::dial::Cause;
use countersign_transport::error::Chain;
use countersign_transport::file::WriteError;
use tonic::{Code, Status};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// There is no asynchronous runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The socket's address can't be used.
    #[error("{0:?} is not the address of a Unix socket: it must be a path, or unix:///path")]
    Address(String),
    /// The socket can't be connected to.
    #[error("{}{}", Chain(source), advice(Cause::of(source)))]
    Dial {
        /// Why.
        source: tonic::transport::Error,
    },
    /// The node agent refused or failed.
    #[error("{}", describe(.0))]
    Status(Box<Status>),
    /// No answer in time.
    #[error("the node agent did not answer within {0:?}: give it longer with -timeout")]
    TimedOut(std::time::Duration),
    /// The stream ended without an answer.
    #[error("the node agent ended the stream without an answer")]
    Ended,
    /// The answer is not what it should be.
    #[error("{0}")]
    Answer(String),
    /// A verb of the admin socket failed: SPIRE says so in this way there, and only there.
    #[error("Error: {0}")]
    Admin(Box<CommandError>),
    /// A file could not be written.
    #[error("{}", Chain(.0))]
    Write(#[from] WriteError),
    /// A directory is none.
    #[error("{} is not a directory: create it first", .0.display())]
    NoDirectory(PathBuf),
    /// The node agent is not well.
    #[error("Agent is unhealthy: {0}")]
    Unhealthy(String),
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn advice(cause: Option<Cause>) -> String {
    let known = cause.map(|cause| {
        format!(
            " ({}, or name the right one with -socketPath)",
            cause.advice()
        )
    });
    known.unwrap_or_default()
}

/// The status as gRPC tools print it, with advice for known causes.
fn describe(status: &Status) -> String {
    let advice = match status.code() {
        Code::PermissionDenied => {
            ": no registration entry matches this process; `countersign-server entry create` makes one, and it can take some \
             seconds until it counts here"
        }
        Code::Unavailable => {
            ": the node agent is starting, stopping, or has no connection to its server; its log says more"
        }
        _ => "",
    };
    format!(
        "rpc error: code = {:?} desc = {}{advice}",
        status.code(),
        status.message()
    )
}
