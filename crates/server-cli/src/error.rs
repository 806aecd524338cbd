//! Why a verb failed, in the words that it prints.

use std::path::PathBuf;

use countersign_transport::dial::Cause;
use tonic::{Code, Status};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The flags do not go together, or one has a value that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The server can't be reached.
    #[error("cannot reach the server at {}: {}", socket.display(), advice(*cause))]
    Unreachable {
        /// Its admin socket.
        socket: PathBuf,
        /// Why not, if that is known.
        cause: Option<Cause>,
    },
    /// The server refused, or failed.
    #[error("rpc error: code = {} desc = {}", code_name(.0.code()), .0.message())]
    Rpc(#[from] Box<Status>),
    /// While doing something in particular, the server refused or failed.
    #[error("{doing}: {source}")]
    During {
        /// What was being done.
        doing: String,
        /// What the server said.
        source: Box<CommandError>,
    },
    /// The server refused the one thing that was asked.
    #[error("{0}")]
    Refused(String),
    /// Some items of a batch failed; each was told before.
    #[error("{0}")]
    Items(&'static str),
    /// A file of items can't be used.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The server is up, and says that it is not well.
    #[error("server is unhealthy: {0}")]
    Unhealthy(String),
    /// Whether the server is well can't be told.
    #[error("server is unhealthy: unable to determine health: {0}")]
    HealthUnknown(#[source] Box<CommandError>),
    /// The answer can't be shown.
    #[error("the server's answer can't be shown: {0}")]
    Answer(String),
}

impl CommandError {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn during(self, doing: impl Into<String>) -> Self {
        Self::During {
            doing: doing.into(),
            source: Box::new(self),
        }
    }

    /// The message, on one line or a few.
    pub(crate) fn told(&self) -> String {
        self.to_string()
    }
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

/// What a person does when the server does not answer.
fn advice(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::NoSocket) => {
            "there is no such socket. Is the server running? Start it with `countersign-server run -config FILE`, or name \
             its socket with -socketPath"
        }
        Some(Cause::Refused) => {
            "nobody listens on the socket; the server that made it is gone. Start it with \
             `countersign-server run -config FILE`"
        }
        Some(Cause::Denied) => {
            "this user may not use the socket. Run this as the server's user, or as a member of its group"
        }
        Some(cause) => cause.advice(),
        None => "the connection broke. Look at the server's log",
    }
}

/// The code's name as gRPC for Go prints it, which scripts around SPIRE look for.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
