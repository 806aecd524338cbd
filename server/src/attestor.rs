//! Node attestors: each proves by its own means which node is speaking.
//!
//! An attestor gets the payload that a node agent sent, may put questions to it, and says which node it is. Whether that
//! node may come in (it may be banned), and what it gets, is not decided here.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::{SelectorSet, SpiffeId};
use futures::future::BoxFuture;

mod join_token;
pub mod path_template;
mod prune;
pub mod x509pop;

pub use join_token::JoinToken;
pub use prune::{PruneNodes, Pruner, evict};
pub use x509pop::X509Pop;

/// What an attestor found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The node agent's ID, below `/spire/agent/<attestor>/`.
    pub id: SpiffeId,
    /// What is known about the node.
    pub selectors: SelectorSet,
    /// Whether the node can prove itself again; then it does so instead of renewing its SVID.
    pub can_reattest: bool,
}

/// Why a node was not attested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// What the agent sent can't be accepted by anyone.
    #[error("{0}")]
    Invalid(String),
    /// What the agent sent proves nothing.
    #[error("{0}")]
    Denied(String),
    /// The agent went away, or did not answer in the form that the protocol demands.
    #[error("the conversation with the agent ended: {0}")]
    Broken(String),
    /// The server's fault.
    #[error("{0}")]
    Internal(String),
    /// The server's fault, and worth another try.
    #[error("{0}")]
    Unavailable(String),
}

impl AttestError {
    /// The same, saying which attestor says it, in the manner of SPIRE's plugins.
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
pub trait Conversation: Send {
    /// Puts a challenge to the agent, and waits for its answer.
    fn challenge(&mut self, challenge: Bytes) -> BoxFuture<'_, Result<Bytes, AttestError>>;

    /// The address that the agent calls from, over the network.
    fn client(&self) -> Option<IpAddr>;
}

/// One way to prove a node.
pub trait NodeAttestor: fmt::Debug + Send + Sync + 'static {
    /// Its name, which agents ask for.
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
pub struct Attestors(Vec<Arc<dyn NodeAttestor>>);

impl Attestors {
    /// The attestor of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<dyn NodeAttestor>> {
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
