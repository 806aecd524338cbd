//! Calling others: each call continues the chain of the call that caused it, or starts one where that is allowed.
//!
//! Order, from the outside in: retries and redirects of the application, then the chain, then the connection. So each
//! attempt is a call of its own, and the chain is made for exactly the connection that it goes out on.
//!
//! [`CalleeClient`] is all of it ready made. [`OutboundLayer`] is the chain alone, for a hyper or tonic stack of your
//! own.

mod attempt;
mod client;
mod connections;
mod layer;
mod replay;
mod reply;
mod send;
mod status;

pub use self::client::{Callee, CalleeClient};
pub use self::layer::{Outbound, OutboundLayer};
#[cfg(feature = "grpc")]
pub use self::send::GrpcClient;
pub use self::send::HttpClient;
#[cfg(feature = "grpc")]
pub use self::status::NotARefusal;
