//! Calling others: each call continues the chain of the call that caused it, or starts one where that is allowed.
//!
//! Order, from the outside in: retries and redirects of the application, then the chain, then the connection. So each
//! attempt is a call of its own, and the chain is made for exactly the connection that it goes out on.

mod client;
mod connections;
mod error;
mod replay;
mod reply;

pub use self::client::{Callee, CalleeClient, GrpcClient, HttpClient, InvalidCallee};
pub use self::error::{CallError, Refused, RefusedBy};
