//! Checks an entry from the wire before it is stored, and words the refusal.
//!
//! The order is SPIRE's, so that of several faults the same one is reported: the IDs, then the other fields, then what
//! SPIRE's data store would find.

use countersign_identity::{Entry, TrustDomain};
use countersign_proto::convert::entry::{EntryUpdate, InvalidEntry};
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::api::id::{self, UnusableId};
use crate::api::status::ApiError;

/// Summary of a failed creation.
pub(super) const NOT_CREATED: &str = "failed to create entry";
/// Summary of a failed update.
pub(super) const NOT_UPDATED: &str = "failed to update entry";

const NOT_CONVERTED: &str = "failed to convert entry";

/// Why a new entry is refused.
pub(super) enum Refused {
    /// It is malformed.
    Malformed(ApiError),
    /// A selector or DNS name comes twice. If a similar entry exists, SPIRE reports that instead.
    Repeated(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Malformed(error)
    }
}

/// An entry that is to be made.
pub(super) fn new(wire: types::Entry, td: &TrustDomain) -> Result<Entry, Refused> {
    parent_id(wire.parent_id.as_ref(), td)?;
    workload_id(wire.spiffe_id.as_ref(), td)?;
    Entry::try_from(wire).map_err(|error| {
        let refusal = refusal(NOT_CREATED, &error);
        if error.is_repetition() {
            Refused::Repeated(refusal)
        } else {
            Refused::Malformed(refusal)
        }
    })
}

/// What an update changes. It is checked before it is known whether there is such an entry: all that the mask names
/// must be valid.
pub(super) fn update(
    wire: types::Entry,
    mask: Option<&types::EntryMask>,
    td: &TrustDomain,
) -> Result<EntryUpdate, ApiError> {
    if mask.is_none_or(|mask| mask.parent_id) {
        parent_id(wire.parent_id.as_ref(), td)?;
    }
    if mask.is_none_or(|mask| mask.spiffe_id) {
        workload_id(wire.spiffe_id.as_ref(), td)?;
    }
    EntryUpdate::new(wire, mask).map_err(|error| refusal(NOT_UPDATED, &error))
}

/// What an update makes of an entry.
pub(super) fn applied(update: &EntryUpdate, old: &Entry) -> Result<Entry, ApiError> {
    update
        .apply(old)
        .map_err(|error| refusal(NOT_UPDATED, &error))
}

/// The parent must be of this trust domain.
fn parent_id(id: Option<&types::Spiffeid>, td: &TrustDomain) -> Result<(), ApiError> {
    match id::member(id.cloned(), td) {
        Ok(_) => Ok(()),
        Err(why) => Err(invalid_id("parent ID", &why)),
    }
}

/// The SPIFFE ID must be a workload's, of this trust domain.
fn workload_id(id: Option<&types::Spiffeid>, td: &TrustDomain) -> Result<(), ApiError> {
    match id::workload(id.cloned(), td) {
        Ok(_) => Ok(()),
        Err(why) => Err(invalid_id("spiffe ID", &why)),
    }
}

fn invalid_id(what: &str, why: &UnusableId) -> ApiError {
    let cause = format_args!("invalid {what}: {why}");
    ApiError::new(Code::InvalidArgument, NOT_CONVERTED, cause)
}

fn refusal(summary: &str, error: &InvalidEntry) -> ApiError {
    if error.is_repetition() {
        ApiError::new(Code::AlreadyExists, summary, error)
    } else if error.is_found_by_store() {
        ApiError::new(Code::InvalidArgument, summary, error)
    } else {
        ApiError::new(Code::InvalidArgument, NOT_CONVERTED, error)
    }
}
