//! Node attestors: each finds out by its own means which node a node agent runs on.
//!
//! An attestor gets the payload that a node agent sent, may challenge it, and returns the node's ID and selectors. Whether
//! the node is banned, and what it gets, is decided by the API.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::{SelectorSet, SpiffeId};
use futures::future::BoxFuture;

mod evict;
mod join_token;
pub(crate) mod path_template;
pub(crate) mod x509pop;

pub(crate) use evict::evict;
pub(crate) use join_token::JoinToken;
pub(crate) use x509pop::X509Pop;

/// A node that has proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attested {
    /// The node agent's ID, under `/spire/agent/<attestor>/`.
    pub(crate) id: SpiffeId,
    /// The node's selectors.
    pub(crate) selectors: SelectorSet,
    /// Whether the node can attest again. If so it must, instead of renewing its SVID.
    pub(crate) can_reattest: bool,
}

/// Why a node was not attested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AttestError {
    /// The payload or a response is malformed, or no proof of this kind could be.
    #[error("{0}")]
    Invalid(String),
    /// The proof was checked and is wrong.
    #[error("{0}")]
    Denied(String),
    /// The agent went away.
    #[error("the conversation with the agent ended: {0}")]
    Broken(String),
    /// An error of the server.
    #[error("{0}")]
    Internal(String),
    /// An error of the server that may pass.
    #[error("{0}")]
    Unavailable(String),
}

impl AttestError {
    /// Puts the attestor's name before the message, as SPIRE's plugins do.
    fn by(self, attestor: &str) -> Self {
        let named = |message: String| format!("nodeattestor({attestor}): {message}");
        match self {
            Self::Invalid(message) => Self::Invalid(named(message)),
            Self::Denied(message) => Self::Denied(named(message)),
            Self::Broken(message) => Self::Broken(message),
            Self::Internal(message) => Self::Internal(named(message)),
            Self::Unavailable(message) => Self::Unavailable(named(message)),
        }
    }
}

/// The conversation with the agent.
pub(crate) trait Conversation: Send {
    /// Sends a challenge to the agent, and waits for its response.
    fn challenge(&mut self, challenge: Bytes) -> BoxFuture<'_, Result<Bytes, AttestError>>;

    /// The address that the agent calls from, if it calls over the network.
    fn client(&self) -> Option<IpAddr>;
}

/// A node attestor.
pub(crate) trait NodeAttestor: fmt::Debug + Send + Sync + 'static {
    /// The attestation type that agents send.
    fn name(&self) -> &'static str;

    /// Finds out which node sent this payload.
    fn attest<'a>(
        &'a self,
        payload: Bytes,
        conversation: &'a mut dyn Conversation,
    ) -> BoxFuture<'a, Result<Attested, AttestError>>;
}

/// The attestors that the server was configured with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attestors(Vec<Arc<dyn NodeAttestor>>);

impl Attestors {
    /// The attestor of this name.
    #[must_use]
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<dyn NodeAttestor>> {
        self.0
            .iter()
            .find(|attestor| attestor.name() == name)
            .cloned()
    }
}

impl FromIterator<Arc<dyn NodeAttestor>> for Attestors {
    fn from_iter<I: IntoIterator<Item = Arc<dyn NodeAttestor>>>(attestors: I) -> Self {
        Self(attestors.into_iter().collect())
    }
}
