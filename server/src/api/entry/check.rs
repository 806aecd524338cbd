//! From a message to an entry that may be stored: what is checked, and in which words a refusal is told.
//!
//! The order is SPIRE's, so that of several faults the same one is told: who is meant, then the other fields, then what
//! only the store knows.

use countersign_identity::{Entry, TrustDomain};
use countersign_proto::convert::entry::{InvalidEntry, updated};
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::api::filter;
use crate::api::status::Failure;

/// What a failed creation says first.
pub(super) const NOT_CREATED: &str = "failed to create entry";
/// What a failed update says first.
pub(super) const NOT_UPDATED: &str = "failed to update entry";

const NOT_CONVERTED: &str = "failed to convert entry";

/// Why a new entry is refused.
pub(super) enum Refused {
    /// As told.
    Told(Failure),
    /// Something is repeated in it that may not be. An entry like it, if there is one, would be told first.
    Repeated(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Told(failure)
    }
}

/// An entry that is to be made.
pub(super) fn new(wire: types::Entry, td: &TrustDomain) -> Result<Entry, Refused> {
    ids(wire.parent_id.as_ref(), wire.spiffe_id.as_ref(), td)?;
    Entry::try_from(wire).map_err(|error| {
        let failure = told(NOT_CREATED, &error);
        if error.is_repetition() {
            Refused::Repeated(failure)
        } else {
            Refused::Told(failure)
        }
    })
}

/// What an update says, before it is known whether there is such an entry: all that the mask names must be sound.
pub(super) fn update(
    wire: &types::Entry,
    mask: Option<&types::EntryMask>,
    td: &TrustDomain,
) -> Result<(), Failure> {
    applied(sample(td), wire.clone(), mask, td).map(drop)
}

/// What an update makes of an entry.
pub(super) fn applied(
    old: types::Entry,
    new: types::Entry,
    mask: Option<&types::EntryMask>,
    td: &TrustDomain,
) -> Result<Entry, Failure> {
    let wire = updated(old, new, mask);
    ids(wire.parent_id.as_ref(), wire.spiffe_id.as_ref(), td)?;
    Entry::try_from(wire).map_err(|error| told(NOT_UPDATED, &error))
}

/// Whether parent and workload are of this trust domain, and of the right kind.
fn ids(
    parent: Option<&types::Spiffeid>,
    workload: Option<&types::Spiffeid>,
    td: &TrustDomain,
) -> Result<(), Failure> {
    let missing = || "request must specify SPIFFE ID".to_owned();
    let parent = parent.cloned().ok_or_else(missing);
    let parent = parent.and_then(|id| filter::member(id, td));
    parent.map_err(|why| invalid_id("parent ID", &why))?;
    let workload = workload.cloned().ok_or_else(missing);
    let workload = workload.and_then(|id| filter::workload(id, td));
    workload.map_err(|why| invalid_id("spiffe ID", &why))?;
    Ok(())
}

fn invalid_id(what: &str, why: &str) -> Failure {
    Failure::new(
        Code::InvalidArgument,
        NOT_CONVERTED,
        format_args!("invalid {what}: {why}"),
    )
}

fn told(summary: &str, error: &InvalidEntry) -> Failure {
    if error.is_repetition() {
        Failure::new(Code::AlreadyExists, summary, error)
    } else if error.is_found_by_store() {
        Failure::new(Code::InvalidArgument, summary, error)
    } else {
        Failure::new(Code::InvalidArgument, NOT_CONVERTED, error)
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
