//! Call chains and mesh policy: the chain codec, the policy, the limits and the decision. No I/O, no clock.
//!
//! A workload that calls another signs a *link* and appends it to the *chain* of calls that led to it. The callee
//! verifies the chain, holds it against the mesh policy and against what it has seen before, and comes to a
//! [`Permit`] or a [`Refusal`]. What the handler then may still spend stands in its [`Context`], from which
//! [`outbound::prepare`] makes the next link. The formats and the order of the checks are specified in
//! `docs/call-chains.md`, whose sections the tests cite.
//!
//! Everything here is a function of its arguments and of the counters in an [`Engine`]; the time comes in as a
//! [`Now`]. The tower layers of the `countersign` crate call it.

pub mod chain;
mod check;
pub mod context;
pub mod decide;
pub mod limits;
pub mod outbound;
pub mod policy;
pub mod refusal;
mod verify;

pub use chain::{Carrier, Chain, ChainId, FieldValue};
pub use context::{Context, Grant};
pub use countersign_identity::Now;
pub use decide::{Engine, FieldValues, InboundRequest, PeerView, Permit};
pub use outbound::{CallOrigin, CallRequest, OutboundError, OutgoingCall, SigningIdentity};
pub use policy::Policy;
pub use refusal::{Reason, Refusal};

#[cfg(test)]
extern crate self as countersign_mesh;
#[cfg(test)]
#[path = "../fixture/fixture.rs"]
mod fixture;
#[cfg(test)]
mod vectors;
