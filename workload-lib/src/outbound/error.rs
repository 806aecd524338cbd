//! What the application learns when a call fails: a plain sentence of our own, never the callee's words.

use std::fmt;
use std::time::Duration;

use countersign_identity::SpiffeId;
use countersign_mesh::{NotSent, Reason, Refusal};
use tonic_types::StatusExt as _;

use crate::BoxError;
use crate::inbound::answer;
use crate::mesh::NoIdentity;

/// The domain of the details that the application's status carries. Not the one that callees use: a handler may hand
/// such a status on as its own answer, and then *its* caller was not refused.
const CALLER_DOMAIN: &str = "caller.countersign.dev";

/// Who refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// This process, before anything was sent.
    ThisWorkload,
    /// The callee.
    Callee,
}

/// A call that was refused. Displays as a plain sentence that says what happened and what to do, fit for a language
/// model to read: nothing that a callee wrote stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    reason: Reason,
    by: RefusedBy,
    retry_after: Option<Duration>,
}

impl Refused {
    pub(super) const fn by_callee(reason: Reason, retry_after: Option<Duration>) -> Self {
        Self {
            reason,
            by: RefusedBy::Callee,
            retry_after,
        }
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// By whom.
    #[must_use]
    pub const fn by(&self) -> RefusedBy {
        self.by
    }

    /// How long to wait before another attempt can help, where waiting can.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The refusal behind the status of a failed gRPC call, if it was refused.
    #[must_use]
    pub fn of(status: &tonic::Status) -> Option<Self> {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == CALLER_DOMAIN)?;
        let by = match info.metadata.get("by").map(String::as_str) {
            Some("this_workload") => RefusedBy::ThisWorkload,
            _ => RefusedBy::Callee,
        };
        let retry_after = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        Some(Self {
            reason: Reason::from_wire(&info.reason),
            by,
            retry_after,
        })
    }

    fn status(&self) -> tonic::Status {
        let by = match self.by {
            RefusedBy::ThisWorkload => "this_workload",
            RefusedBy::Callee => "callee",
        };
        let metadata = [("by".to_owned(), by.to_owned())];
        let mut details = tonic_types::ErrorDetails::with_error_info(
            self.reason.as_str(),
            CALLER_DOMAIN,
            metadata,
        );
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        tonic::Status::with_error_details(
            answer::code(self.reason.grpc_code()),
            self.to_string(),
            details,
        )
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.sentence())?;
        match self.retry_after {
            Some(delay) => write!(f, " The delay is {} s.", delay.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

/// Why a call failed before the callee's handler answered it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// This process has no identity to call with.
    #[error(transparent)]
    NoIdentity(#[from] NoIdentity),
    /// No link could be signed.
    #[error("{0}")]
    Signing(String),
    /// The request goes to another address than the callee's.
    #[error(
        "the request is for {found:?}, but this client calls {callee} at {expected:?}: leave scheme and host out"
    )]
    WrongAddress {
        /// Whom the client calls.
        callee: SpiffeId,
        /// Where.
        expected: String,
        /// What the request has.
        found: String,
    },
    /// The request cannot be sent as it is.
    #[error("the request cannot be sent: {0}")]
    Request(#[source] http::Error),
    /// No connection to the callee came about: nobody there, or somebody else.
    #[error("could not connect to {callee} at {address}: {source}")]
    Unreachable {
        /// Who was to be called.
        callee: SpiffeId,
        /// Where.
        address: String,
        /// What failed.
        source: BoxError,
    },
    /// The connection failed while the call was under way. Whether the callee acted on it is not known.
    // The cause may hold what the callee sent (the debug data of a GOAWAY): it is no part of the sentence.
    #[error(
        "the call to {callee} broke off before it was answered; whether the callee acted on it is not known"
    )]
    Failed {
        /// Who was called.
        callee: SpiffeId,
        /// What failed.
        source: BoxError,
    },
}

impl CallError {
    /// Refused by this process.
    pub(crate) fn refused_here(refusal: &Refusal) -> Self {
        tracing::info!(reason = %refusal.reason(), detail = refusal.detail(), "call refused before it was sent");
        let by = RefusedBy::ThisWorkload;
        Self::Refused(Refused {
            reason: refusal.reason(),
            by,
            retry_after: refusal.retry_after(),
        })
    }

    /// Refused because the running task serves a call without a chain.
    pub(crate) fn barred() -> Self {
        let detail = "a handler of a call that came without a chain may not start one";
        Self::refused_here(&Refusal::new(Reason::OriginationDenied, detail))
    }

    /// Refused because the chain's deadline passed while the call was under way.
    pub(crate) fn deadline_passed() -> Self {
        Self::refused_here(&Refusal::new(
            Reason::ChainDeadlinePassed,
            "the deadline passed while the call was under way",
        ))
    }

    pub(crate) fn not_sent(error: &NotSent) -> Self {
        match error {
            NotSent::Refused(refusal) => Self::refused_here(refusal),
            fault => Self::Signing(fault.to_string()),
        }
    }

    /// The refusal, if that is what it was.
    #[must_use]
    pub const fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> tonic::Status {
        let code = match self {
            Self::Refused(refused) => return refused.status(),
            Self::NoIdentity(_) | Self::Unreachable { .. } | Self::Failed { .. } => {
                tonic::Code::Unavailable
            }
            Self::WrongAddress { .. } | Self::Request(_) => tonic::Code::InvalidArgument,
            Self::Signing(_) => tonic::Code::Internal,
        };
        tonic::Status::new(code, self.to_string())
    }
}
