//! Who calls, and whether a node agent still is one.

use std::sync::Arc;

use countersign_identity::SpiffeId;
use countersign_identity::node::Credential;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_store::NodeError;
use countersign_transport::Connection;
use countersign_transport::connection::Peer;
use tonic::Status;

use super::Context;
use super::access::Access;
use super::status::{self, Failure};

/// The caller of a method, as far as the method's row in the table asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The method is for anyone: nobody asked.
    Anyone,
    /// On the local socket.
    Local,
    /// An admin.
    Admin(SpiffeId),
    /// A server below this one.
    Downstream(SpiffeId),
    /// A node agent whose SVID is the current one.
    Agent(SpiffeId),
}

/// Why a node agent is not let in.
enum Refusal {
    Agent(Reason),
    Failed(Failure),
}

impl Context {
    /// Finds the caller among those who may call, in the order anyone, local, admin or downstream, agent.
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
        if access == Access::Downstream && self.parts.registry.is_downstream(&peer.id) {
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
        self.parts.admin_ids.contains(id) || self.parts.registry.is_admin(id)
    }

    /// The checks in the order that node agents rely on. The first use of a renewed SVID makes it the current one.
    async fn check_agent(&self, peer: &Arc<Peer>) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::Agent(reason));
        if self.parts.clock.now() > peer.not_after {
            return refuse(Reason::AgentExpired);
        }
        let Some(node) = self.parts.registry.node(&peer.id) else {
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
                return Err(Refusal::Failed(Failure::store(summary, &error)));
            }
        };
        self.parts
            .registry
            .reached(promoted.seq)
            .await
            .map_err(|stopped| Refusal::Failed(stopped.into()))?;
        // It may have been banned or renewed again meanwhile.
        if promoted.value.is_banned() {
            refuse(Reason::AgentBanned)
        } else if is(&promoted.value.current) {
            Ok(())
        } else {
            refuse(Reason::AgentNotActive)
        }
    }
}
