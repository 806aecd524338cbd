//! Why a verb failed. What a person reads is the error with its causes, on one line or a few.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use countersign_config::InvalidConfig;
use countersign_identity::key::KeyError;
use countersign_transport::dial::Cause;
use countersign_transport::error::Chain;
use countersign_transport::file::WriteError;
use tonic::{Code, Status};

use crate::bundle_data::InvalidBundleData;
use crate::flag::InvalidFlag;
use crate::input::InvalidInput;
use crate::json::AnswerError;
use crate::relationship::InvalidRelationship;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// A flag has a value that makes no sense.
    #[error(transparent)]
    Flag(#[from] InvalidFlag),
    /// Flags do not go together, or nothing is asked for; in SPIRE's words where it has some.
    #[error("{0}")]
    Usage(&'static str),
    /// A file can't be read, or does not have the form it should have.
    #[error(transparent)]
    Input(#[from] InvalidInput),
    /// Bundle data can't be read.
    #[error(transparent)]
    Bundle(#[from] InvalidBundleData),
    /// A federation relationship is described wrongly.
    #[error(transparent)]
    Relationship(#[from] InvalidRelationship),
    /// The file for `entry apply` is wrong. Its faults have lines of their own.
    #[error("nothing was changed:\n{}", Chain(.0))]
    EntryFile(InvalidConfig),
    /// What the file for `entry apply` asks for can't be done.
    #[error("nothing was changed:\n{0}")]
    Conflicts(Conflicts),
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
    Rpc(Box<Status>),
    /// The server refused the only item of a batch.
    #[error("{failure}: {message}")]
    Refused {
        /// What failed.
        failure: String,
        /// What the server says about the item.
        message: String,
    },
    /// Some items of a batch failed; each was reported before.
    #[error("failed to {verb} one or more {items}")]
    Items {
        /// What was to be done.
        verb: &'static str,
        /// With what.
        items: &'static str,
    },
    /// No relationship with this trust domain.
    #[error("there is no federation relationship with trust domain {0:?}")]
    NoRelationship(String),
    /// Something went wrong while something in particular was being done.
    #[error("{doing}")]
    During {
        /// What was being done.
        doing: Cow<'static, str>,
        /// What went wrong.
        source: Box<CommandError>,
    },
    /// No key or certificate request could be made.
    #[error("unable to generate CSR")]
    Csr(#[from] KeyError),
    /// A result can't be written to its file.
    #[error("unable to write {what}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Why not.
        source: WriteError,
    },
    /// The server is up, and says that it is not healthy.
    #[error("server is unhealthy: server returned status {0:?}")]
    Unhealthy(&'static str),
    /// The server did not say whether it is healthy.
    #[error("server is unhealthy: unable to determine health")]
    HealthUnknown(#[source] Box<CommandError>),
    /// The server's answer is incomplete, or has no JSON form.
    #[error("the server's answer can't be shown")]
    Answer(#[from] AnswerError),
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

/// Entries of the file for `entry apply` that have another ID at the server, which has no two entries that are alike.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Conflicts(pub(crate) Vec<Conflict>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub(crate) spiffe_id: String,
    /// The ID in the file.
    pub(crate) id: String,
    /// The ID at the server.
    pub(crate) present: String,
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, conflict) in self.0.iter().enumerate() {
            let Conflict {
                spiffe_id,
                id,
                present,
            } = conflict;
            let line_end = if place > 0 { "\n" } else { "" };
            write!(
                f,
                "{line_end}{spiffe_id} (ID {id}): the server has an entry with the same SPIFFE ID, parent and selectors, \
                 with the ID {present}: name that one, or delete it"
            )?;
        }
        Ok(())
    }
}

/// Says what was being done when something failed, in the words in which SPIRE says it.
pub(crate) trait During<T> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, CommandError>;
}

impl<T, E: Into<CommandError>> During<T> for Result<T, E> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::During {
            doing: doing.into(),
            source: Box::new(error.into()),
        })
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
            "no process listens on the socket; the server that made it is gone. Start it with \
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
