//! Who may call a method, who the caller is, and whether a node agent's SVID is still the current one.

use std::sync::Arc;

use countersign_identity::SpiffeId;
use countersign_identity::node::Credential;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_store::NodeError;
use countersign_transport::Connection;
use countersign_transport::connection::Peer;
use tonic::Status;

use super::Context;
use super::status::{self, ApiError};

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone, also without a certificate.
    Anyone,
    /// Node agents.
    Agent,
    /// Downstream servers.
    Downstream,
    /// Callers on the local socket.
    Local,
    /// Callers on the local socket, and admins.
    Admin,
    /// Callers on the local socket, admins and node agents.
    AdminOrAgent,
}

/// The caller of a method, identified as far as the method's [`Access`] needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The method is for anyone, so the caller was not identified.
    Anyone,
    /// On the local socket.
    Local,
    /// An admin.
    Admin(SpiffeId),
    /// A downstream server.
    Downstream(SpiffeId),
    /// A node agent whose SVID is the current one.
    Agent(SpiffeId),
}

/// Why a node agent is refused.
enum Refusal {
    Agent(Reason),
    Failed(ApiError),
}

impl Context {
    /// Identifies the caller, in the order anyone, local, admin or downstream, agent, and refuses those that may not call.
    pub(super) async fn authorise(
        &self,
        access: Access,
        connection: &Connection,
        method: &str,
    ) -> Result<Caller, Status> {
        let message = || format!("authorization denied for method {method}");
        if access == Access::Anyone {
            return Ok(Caller::Anyone);
        }
        let Some(peer) = &connection.peer else {
            let local = matches!(access, Access::Local | Access::Admin | Access::AdminOrAgent)
                && connection.unix_caller().is_some();
            return if local {
                Ok(Caller::Local)
            } else {
                Err(Status::permission_denied(message()))
            };
        };
        if matches!(access, Access::Admin | Access::AdminOrAgent) && self.is_admin(&peer.id) {
            return Ok(Caller::Admin(peer.id.clone()));
        }
        if access == Access::Downstream && self.parts.index.is_downstream(&peer.id) {
            return Ok(Caller::Downstream(peer.id.clone()));
        }
        if !matches!(access, Access::Agent | Access::AdminOrAgent) {
            return Err(Status::permission_denied(message()));
        }
        match self.check_agent(peer).await {
            Ok(()) => Ok(Caller::Agent(peer.id.clone())),
            Err(Refusal::Agent(reason)) => Err(status::denied(message(), reason)),
            Err(Refusal::Failed(failure)) => Err(failure.into()),
        }
    }

    fn is_admin(&self, id: &SpiffeId) -> bool {
        self.parts.admin_ids.contains(id) || self.parts.index.is_admin(id)
    }

    /// Checks a node agent's SVID. The order decides which reason the agent gets. The first use of a renewed SVID makes it
    /// the current one.
    async fn check_agent(&self, peer: &Arc<Peer>) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::Agent(reason));
        if self.parts.clock.now() > peer.not_after {
            return refuse(Reason::AgentExpired);
        }
        let Some(node) = self.parts.index.node(&peer.id) else {
            return refuse(Reason::AgentNotAttested);
        };
        let is = |svid: &Option<Credential>| {
            svid.as_ref().is_some_and(|svid| svid.serial == peer.serial)
        };
        if node.value.is_banned() {
            return refuse(Reason::AgentBanned);
        }
        if is(&node.value.current) {
            return Ok(());
        }
        if !is(&node.value.pending) {
            return refuse(Reason::AgentNotActive);
        }
        let promoted = match self.parts.store.node_promoted(&peer.id, &peer.serial).await {
            Ok(promoted) => promoted,
            Err(NodeError::Missing) => return refuse(Reason::AgentNotAttested),
            Err(NodeError::Banned) => return refuse(Reason::AgentBanned),
            Err(NodeError::Store(error)) => {
                let summary = "failed to activate the renewed SVID of the agent";
                return Err(Refusal::Failed(ApiError::store(summary, &error)));
            }
        };
        let promoted = self
            .parts
            .index
            .visible(promoted)
            .await
            .map_err(|behind| Refusal::Failed(behind.into()))?;
        // It may have been banned or renewed again meanwhile.
        if promoted.is_banned() {
            refuse(Reason::AgentBanned)
        } else if is(&promoted.current) {
            Ok(())
        } else {
            refuse(Reason::AgentNotActive)
        }
    }
}
