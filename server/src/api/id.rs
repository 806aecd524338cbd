//! SPIFFE IDs in requests: of this server's trust domain, and of the kind that the request asks for. The texts are SPIRE's.

use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{SpiffeId, TrustDomain};
use countersign_proto::spire::api::types;

/// Why an ID can't stand in a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnusableId {
    #[error("request must specify SPIFFE ID")]
    Missing,
    #[error(transparent)]
    Malformed(#[from] InvalidId),
    #[error("\"{id}\" is not a member of trust domain \"{td}\"")]
    Foreign { id: SpiffeId, td: TrustDomain },
    #[error("\"{id}\" is not a member of trust domain \"{td}\"; path is empty")]
    NoPath { id: SpiffeId, td: TrustDomain },
    #[error("\"{id}\" is not a workload in trust domain \"{td}\"; path is {fault}")]
    NotWorkload {
        id: SpiffeId,
        td: TrustDomain,
        fault: &'static str,
    },
    #[error(
        "\"{id}\" is not an agent in trust domain \"{td}\"; path is not in the agent namespace"
    )]
    NotAgent { id: SpiffeId, td: TrustDomain },
}

/// An ID in the trust domain, with a path.
pub(super) fn member(
    id: Option<types::Spiffeid>,
    td: &TrustDomain,
) -> Result<SpiffeId, UnusableId> {
    let id = own(id, td)?;
    if id.path().is_empty() {
        return Err(UnusableId::NoPath { id, td: td.clone() });
    }
    Ok(id)
}

/// A workload's ID in the trust domain.
pub(super) fn workload(
    id: Option<types::Spiffeid>,
    td: &TrustDomain,
) -> Result<SpiffeId, UnusableId> {
    let id = own(id, td)?;
    let fault = match id.path() {
        "" => "empty",
        _ if id.is_reserved() => "in the reserved namespace",
        _ => return Ok(id),
    };
    let td = td.clone();
    Err(UnusableId::NotWorkload { id, td, fault })
}

/// A node agent's ID in the trust domain.
pub(super) fn agent(id: Option<types::Spiffeid>, td: &TrustDomain) -> Result<SpiffeId, UnusableId> {
    let id = member(id, td)?;
    if !id.is_agent() {
        return Err(UnusableId::NotAgent { id, td: td.clone() });
    }
    Ok(id)
}

fn own(id: Option<types::Spiffeid>, td: &TrustDomain) -> Result<SpiffeId, UnusableId> {
    let id = SpiffeId::try_from(id.ok_or(UnusableId::Missing)?)?;
    if !id.is_member_of(td) {
        return Err(UnusableId::Foreign { id, td: td.clone() });
    }
    Ok(id)
}
