//! Checks an entry from the wire before it is stored, and words the refusal.
//!
//! The order is SPIRE's, so that of several faults the same one is reported: the IDs, then the other fields, then what
//! SPIRE's data store would find.

use countersign_identity::{Entry, TrustDomain};
use countersign_proto::convert::entry::{InvalidEntry, updated};
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::api::id::{self, UnusableId};
use crate::api::status::ApiError;

/// What a failed creation says first.
pub(super) const NOT_CREATED: &str = "failed to create entry";
/// What a failed update says first.
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
    ids(wire.parent_id.as_ref(), wire.spiffe_id.as_ref(), td)?;
    Entry::try_from(wire).map_err(|error| {
        let refusal = refusal(NOT_CREATED, &error);
        if error.is_repetition() {
            Refused::Repeated(refusal)
        } else {
            Refused::Malformed(refusal)
        }
    })
}

/// What an update says, before it is known whether there is such an entry: all that the mask names must be sound.
pub(super) fn update(
    wire: &types::Entry,
    mask: Option<&types::EntryMask>,
    td: &TrustDomain,
) -> Result<(), ApiError> {
    applied(sample(td), wire.clone(), mask, td).map(drop)
}

/// What an update makes of an entry.
pub(super) fn applied(
    old: types::Entry,
    new: types::Entry,
    mask: Option<&types::EntryMask>,
    td: &TrustDomain,
) -> Result<Entry, ApiError> {
    let wire = updated(old, new, mask);
    ids(wire.parent_id.as_ref(), wire.spiffe_id.as_ref(), td)?;
    Entry::try_from(wire).map_err(|error| refusal(NOT_UPDATED, &error))
}

/// Whether parent and workload are of this trust domain, and of the right kind.
fn ids(
    parent: Option<&types::Spiffeid>,
    workload: Option<&types::Spiffeid>,
    td: &TrustDomain,
) -> Result<(), ApiError> {
    let invalid = |what: &str, why: UnusableId| {
        let cause = format_args!("invalid {what}: {why}");
        ApiError::new(Code::InvalidArgument, NOT_CONVERTED, cause)
    };
    id::member(parent.cloned(), td).map_err(|why| invalid("parent ID", why))?;
    id::workload(workload.cloned(), td).map_err(|why| invalid("spiffe ID", why))?;
    Ok(())
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

/// An entry with which nothing is wrong, in the place of the one to be updated.
fn sample(td: &TrustDomain) -> types::Entry {
    let id = |path: &str| types::Spiffeid {
        trust_domain: td.to_string(),
        path: path.to_owned(),
    };
    types::Entry {
        id: "entry".to_owned(),
        spiffe_id: Some(id("/workload")),
        parent_id: Some(id("/parent")),
        selectors: vec![types::Selector {
            r#type: "type".to_owned(),
            value: "value".to_owned(),
        }],
        ..types::Entry::default()
    }
}
