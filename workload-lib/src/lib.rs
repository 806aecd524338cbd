//! Identity, mutual TLS and call-chain control for AI agents: the crate that agents link.
//!
//! A workload joins the mesh, serves, and calls others. It gets its identity from the node agent on its machine, talks
//! only over mutual TLS, and only where policy allows; each call continues the signed chain of the call that caused it,
//! so that feedback loops are stopped. Five lines of code:
//!
//! ```no_run
//! use axum::{Router, body::Body, extract::State, http::Request, routing::post};
//! use countersign::{HttpClient, Mesh};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::join().await?;
//! let reviewer = mesh.callee("spiffe://ai-agents.org/reviewer").at("https://10.0.0.8:8443")?.http();
//! let router = Router::new().route("/tasks", post(task)).with_state(reviewer);
//! mesh.serve(tokio::net::TcpListener::bind("0.0.0.0:8443").await?, router).await;
//! # Ok(())
//! # }
//!
//! /// The call continues the chain of the request that is being handled. A refusal says in plain words what to do.
//! async fn task(State(reviewer): State<HttpClient>, task: String) -> Body {
//!     let request = Request::post("/reviews").body(task).expect("a valid request");
//!     match reviewer.send(request).await {
//!         Ok(review) => review.into_body(),
//!         Err(refused) => Body::from(refused.to_string()),
//!     }
//! }
//! ```
//!
//! For gRPC, a client that tonic generated takes [`CalleeClient::grpc`], and a tonic service becomes a router:
//! `Routes::new(mesh.grpc(service)).into_axum_router()`. The crate's `examples/` folder has a tonic callee, an axum
//! callee and a caller.
//!
//! # What to know
//!
//! - **Where things are.** `SPIFFE_ENDPOINT_SOCKET` names the node agent, `COUNTERSIGN_POLICY` the policy file. The file
//!   is read again when it changes; one with errors is refused whole and the last good one stays.
//! - **The context follows the work.** It is there in the handler and in the body of its answer ([`Context::current`]),
//!   and in the request's extensions. Code on other tasks needs [`Context::scope`] or [`Context::spawn`]; without a
//!   context only a workload with the right to originate may call.
//! - **Starting work.** [`Chain::start`] opens one chain for a whole piece of work; a call without a context starts one
//!   of its own.
//! - **Every call costs one**, and grants its callee a part of what is left: [`CalleeClient::grant`], [`Context::split`].
//! - **Refusals.** [`CallError::Refused`] and [`Refused::of`] tell the reason to programs and a sentence to models. The
//!   words of a callee are only logged.
//! - **Ends.** At the chain's deadline the handler is dropped and open streams are reset. A caller that goes away takes
//!   the handler along. Connections end when a certificate on them does.
//! - **One SVID per [`Mesh`]**: the first that the node agent lists, unless [`Join::svid`] says which.
//!
//! Types of axum, tonic, http and tokio stand in the public interface, in the versions of this crate's manifest.
//!
//! # What it does not do
//!
//! No format proves that a workload cites the right one of two live chains, or that a message inside a stream belongs to
//! the call that opened it. Counts are per process: n replicas of a callee allow n times. The specification is
//! `docs/call-chains.md`.

mod causes;
mod context;
mod current;
mod exchange;
pub mod inbound;
mod join;
pub mod limits;
mod mesh;
pub mod outbound;
mod policy;
mod source;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use countersign_identity::{SpiffeId, UnixTime};
pub use countersign_mesh::{ChainId, Reason};

pub use crate::context::{Chain, Context};
pub use crate::inbound::{InboundLayer, Permitted};
pub use crate::join::{ENDPOINT_VARIABLE, Join, JoinError, POLICY_VARIABLE};
pub use crate::mesh::{Mesh, NoIdentity};
pub use crate::outbound::{CallError, CalleeClient, GrpcClient, HttpClient, Refused, RefusedBy};
pub use crate::policy::PolicyProblem;
pub use crate::source::Which;

/// An error of any kind, as HTTP bodies have it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
