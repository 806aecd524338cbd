//! What ends the node agent, each with what to do about it.

use countersign_identity::UnixTime;
use countersign_proto::spire::api::types::permission_denied_details::Reason;

use crate::client::CallError;
use crate::skew::Skew;

/// Why the node agent can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// The server does not accept this node's identity.
    #[error(
        "the server does not accept this node any more ({}): its SVID was removed from disk; {}",
        reason_text(*reason), anew(attestor)
    )]
    NotAccepted {
        /// What the server said.
        reason: Reason,
        /// How the node attests.
        attestor: &'static str,
    },
    /// The server banned this node.
    #[error(
        "the server has banned this node: its SVID was removed from disk; after `countersign-server agent evict` it may \
         attest again: {}",
        anew(attestor)
    )]
    Banned {
        /// How the node attests.
        attestor: &'static str,
    },
    /// The server shows a certificate of an authority that is not in the bundle.
    #[error(
        "the server at {address} can't be verified by the trust bundle on disk ({reason}): if the server was set up anew, \
         remove agent-state.json from data_dir and attest again; if not, somebody else answers there"
    )]
    UnknownAuthority {
        /// Where it is.
        address: String,
        /// Why not.
        reason: CallError,
    },
    /// The node's own SVID ran out before it could be renewed.
    #[error(
        "this node's SVID expired at {expired} and could not be renewed ({reason}): make a new join token with \
         `countersign-server token generate` and start again with -joinToken"
    )]
    Expired {
        /// When.
        expired: UnixTime,
        /// The last failure.
        reason: String,
    },
    /// The clocks differ.
    #[error("{0}")]
    Clock(Skew),
    /// Trust is to be taken from its source again, and the node can't attest again.
    #[error(
        "rebootstrap_mode is \"always\", and the server does not let this node attest again: use a node attestor such as \
         x509pop, or set rebootstrap_mode to \"auto\" or \"never\""
    )]
    NotReattestable,
    /// There is no identity to sync with.
    #[error("this node has no identity")]
    NoIdentity,
}

fn anew(attestor: &str) -> &'static str {
    if attestor == "join_token" {
        "make a new join token with `countersign-server token generate` and start again with -joinToken"
    } else {
        "start again, to attest anew"
    }
}

const fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::AgentExpired => "its SVID has expired by the server's clock",
        Reason::AgentNotAttested => "it was evicted, or the server does not know it",
        Reason::AgentNotActive => "a newer SVID of it has been used",
        Reason::AgentMustReattest => "it has to attest again instead of renewing",
        Reason::AgentBanned => "it was banned",
        Reason::Unknown => "no reason given",
    }
}
