//! Attested nodes: what the server knows about each node agent.

use crate::{SelectorSet, SpiffeId, UnixTime};

/// A node agent's X.509-SVID as the server remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The certificate's serial number, in decimal.
    pub serial: String,
    /// When the certificate expires.
    pub expires_at: UnixTime,
}

/// A node that was attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node agent's ID, under `/spire/agent/`.
    pub id: SpiffeId,
    /// The attestor that vouched for it, such as `join_token`.
    pub attestation_type: String,
    /// The SVID in use; `None` for a banned node.
    pub current: Option<Credential>,
    /// An SVID that was renewed and not used yet; its first use makes it the current one.
    pub pending: Option<Credential>,
    /// Whether the node proves itself again instead of renewing.
    pub can_reattest: bool,
    /// What the attestor found out about the node.
    pub selectors: SelectorSet,
    /// The version that the node agent reported; may be empty.
    pub agent_version: String,
}

impl Node {
    /// Whether an admin banned this node.
    #[must_use]
    pub const fn is_banned(&self) -> bool {
        self.current.is_none()
    }
}
