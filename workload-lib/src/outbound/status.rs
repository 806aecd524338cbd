//! Failed calls as gRPC statuses, and the refusal behind such a status.

use std::collections::BTreeMap;

use crate::error::{CallError, Refused, RefusedBy};
use crate::rpc_status::{self, ErrorInfo};
#[cfg(feature = "grpc")]
use countersign_mesh::Reason;

/// The domain of the details that the application's status carries. Not the one that callees use: a handler may hand
/// such a status on as its own answer, and then *its* caller was not refused.
const CALLER_DOMAIN: &str = "caller.countersign.dev";

/// The key of the details that says who refused.
const BY: &str = "by";
const THIS_WORKLOAD: &str = "this_workload";
const CALLEE: &str = "callee";

/// A [`tonic::Status`] that is no refusal: the callee's handler answered with it, or the call failed.
#[cfg(feature = "grpc")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the status is no refusal of a call")]
#[non_exhaustive]
pub struct NotARefusal;

/// # Examples
/// ```
/// use countersign::Refused;
///
/// fn explain(status: &tonic::Status) -> String {
///     match Refused::try_from(status) {
///         Ok(refused) => format!("refused ({}): {refused}", refused.reason()),
///         Err(_) => format!("failed: {}", status.message()),
///     }
/// }
/// ```
#[cfg(feature = "grpc")]
impl TryFrom<&tonic::Status> for Refused {
    type Error = NotARefusal;

    fn try_from(status: &tonic::Status) -> Result<Self, NotARefusal> {
        let (info, retry_after) = rpc_status::details(status)
            .filter(|(info, _)| info.domain == CALLER_DOMAIN)
            .ok_or(NotARefusal)?;
        let by = match info.metadata.get(BY).map(String::as_str) {
            Some(THIS_WORKLOAD) => RefusedBy::ThisWorkload,
            _ => RefusedBy::Callee,
        };
        Ok(Self::new(Reason::from_wire(&info.reason), by, retry_after))
    }
}

/// A failed call as the client that tonic generated learns of it.
pub(super) fn of(error: &CallError) -> tonic::Status {
    let code = match error {
        CallError::Refused(refused) => return of_refusal(refused),
        CallError::NoIdentity(_) | CallError::Unreachable { .. } | CallError::Failed { .. } => {
            tonic::Code::Unavailable
        }
        CallError::WrongAddress { .. } | CallError::Request(_) => tonic::Code::InvalidArgument,
        CallError::Signing(_) => tonic::Code::Internal,
    };
    tonic::Status::new(code, error.to_string())
}

fn of_refusal(refused: &Refused) -> tonic::Status {
    let by = match refused.by() {
        RefusedBy::ThisWorkload => THIS_WORKLOAD,
        RefusedBy::Callee => CALLEE,
    };
    let info = ErrorInfo {
        reason: refused.reason().as_str().to_owned(),
        domain: CALLER_DOMAIN.to_owned(),
        metadata: BTreeMap::from([(BY.to_owned(), by.to_owned())]),
    };
    let code = rpc_status::code(refused.reason().grpc_code());
    rpc_status::status(code, &refused.to_string(), &info, refused.retry_after())
}
