//! Agents in one process for tests: with identities and the policy of the test, and without a node agent.
//!
//! Everything else is real: certificates, mutual TLS, sockets on the loopback device, chains, and the decision about each
//! call. So a test shows what policy will do to an agent before it is deployed.
//!
//! ```
//! use axum::{Router, routing::post};
//! use countersign::{Chain, Reason, test::TestMesh};
//! use http::Request;
//!
//! const POLICY: &str = r#"
//!     originate "planner starts work" {
//!       workloads  = ["spiffe://example.org/planner"]
//!       new_chains = "1/s burst 10"
//!     }
//!     allow "planner asks coder" {
//!       from    = ["spiffe://example.org/planner"]
//!       to      = ["spiffe://example.org/coder"]
//!       actions = ["POST /tasks"]
//!     }
//! "#;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let test = TestMesh::new(POLICY)?;
//! let (planner, coder) = (test.agent("spiffe://example.org/planner")?, test.agent("spiffe://example.org/coder")?);
//! coder.serve(Router::new().route("/tasks", post(async || "done")));
//! let answer = planner.client_of(&coder)?.http().send(Request::post("/tasks").body("")?).await?;
//! assert_eq!(answer.status(), 200);
//! # // The coder may neither start work nor call back.
//! # let error = coder.client_of(&planner)?.http().send(Request::post("/tasks").body("")?).await.unwrap_err();
//! # assert_eq!(error.refused().unwrap().reason(), Reason::OriginationDenied);
//! # Ok(())
//! # }
//! ```

mod feed;
mod mesh;

/// The clock of a mesh, for tests that move time; its own crate is not published.
pub use countersign_transport::clock::{Clock, SharedClock, TestClock};

#[doc(hidden)]
pub use self::feed::{Feed, FeedError, mesh};
pub use self::mesh::{TestAgent, TestMesh, TestMeshError};
