//! Errors of the API: as gRPC statuses, and as the statuses of a batch's items.

use std::fmt;

use bytes::Bytes;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_store::StoreError;
use countersign_store::backend::BackendError;
use countersign_transport::error::Chain;
use prost::Message as _;
use tonic::{Code, Status};

use crate::index::Behind;

/// The type of [`types::PermissionDeniedDetails`] as node agents look for it.
const DETAILS_TYPE: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// An error for a caller: `summary: cause`. Not-found has the summary only, because tools match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    code: Code,
    message: String,
}

impl ApiError {
    pub(super) fn new(code: Code, summary: &str, cause: impl fmt::Display) -> Self {
        let message = match code {
            Code::NotFound => summary.to_owned(),
            _ => format!("{summary}: {cause}"),
        };
        Self { code, message }
    }

    pub(super) fn plain(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::plain(Code::InvalidArgument, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::plain(Code::NotFound, message)
    }

    /// The store failed. The cause goes to the log, not to the caller. I/O errors may pass, so the caller may retry.
    pub(super) fn store(summary: &str, error: &StoreError) -> Self {
        let (code, cause) = match error {
            StoreError::Busy { .. } => return Self::new(Code::Aborted, summary, error),
            StoreError::Backend(BackendError::Io { .. } | BackendError::Closed) => (
                Code::Unavailable,
                "the server's store can't be used at the moment; see its log",
            ),
            StoreError::Backend(BackendError::Damaged { .. }) | StoreError::Damaged { .. } => {
                (Code::Internal, "the server's store failed; see its log")
            }
        };
        tracing::error!(error = %Chain(error), request = summary, "The store failed");
        Self::new(code, summary, cause)
    }

    /// Puts a summary before the message.
    pub(super) fn with_summary(mut self, summary: &str) -> Self {
        self.message = format!("{summary}: {}", self.message);
        self
    }

    /// The status of a batch's item.
    pub(super) fn item(self) -> types::Status {
        types::Status {
            code: self.code.into(),
            message: self.message,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<Behind> for ApiError {
    fn from(behind: Behind) -> Self {
        Self::plain(Code::Unavailable, behind.to_string())
    }
}

/// The status of an item that went well.
pub(super) fn ok() -> types::Status {
    types::Status {
        code: 0,
        message: "OK".into(),
    }
}

/// Permission denied, with the reason as a detail: it decides whether a node agent attests again or gives up.
pub(super) fn denied(message: impl Into<String>, reason: Reason) -> Status {
    let message = message.into();
    let detail = types::PermissionDeniedDetails {
        reason: reason.into(),
    };
    let details = tonic_types::Status {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: DETAILS_TYPE.into(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(
        Code::PermissionDenied,
        message,
        Bytes::from(details.encode_to_vec()),
    )
}

/// The status of a method that is not implemented yet.
pub(super) fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!("this server does not {what} yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_not_found_omits_the_cause() {
        let message = |code| ApiError::new(code, "failed to x", "y").message;
        assert_eq!(message(Code::InvalidArgument), "failed to x: y");
        assert_eq!(message(Code::NotFound), "failed to x");
    }

    #[test]
    fn store_io_errors_may_be_retried_and_damage_may_not() {
        let code = |error: StoreError| ApiError::store("failed to x", &error).code;
        let io = BackendError::Io {
            doing: "write",
            why: "no space left".into(),
        };
        assert_eq!(code(io.into()), Code::Unavailable);
        assert_eq!(code(BackendError::Closed.into()), Code::Unavailable);
        assert_eq!(code(StoreError::Busy { doing: "x" }), Code::Aborted);
        let damaged = BackendError::Damaged { what: "x".into() };
        assert_eq!(code(damaged.into()), Code::Internal);
    }

    #[test]
    fn a_denial_carries_its_reason() {
        let status = denied("no", Reason::AgentBanned);
        let decoded = tonic_types::Status::decode(status.details()).unwrap();
        assert_eq!((decoded.code, decoded.message.as_str()), (7, "no"));
        assert_eq!(decoded.details[0].type_url, DETAILS_TYPE);
        let detail =
            types::PermissionDeniedDetails::decode(decoded.details[0].value.as_slice()).unwrap();
        assert_eq!(detail.reason(), Reason::AgentBanned);
    }
}
