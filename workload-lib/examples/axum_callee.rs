//! An agent that serves tasks over HTTP and hands each on to a reviewer.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/countersign/agent.sock COUNTERSIGN_POLICY=mesh.hcl \
//!     axum_callee 0.0.0.0:8443 spiffe://ai-agents.org/reviewer https://10.0.0.8:8443
//! ```

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Router};
use countersign::{CalleeClient, Context, Mesh, Permitted};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let usage = "usage: axum_callee LISTEN REVIEWER_ID REVIEWER_ADDRESS";
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context(usage);
    let (listen, reviewer, address) = (next()?, next()?, next()?);

    let mesh = Mesh::join().await?;
    let reviewer = mesh.callee(reviewer).at(&address)?;
    let router = Router::new()
        .route("/tasks", post(task))
        .with_state(reviewer);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!(id = %mesh.id()?, address = %listener.local_addr()?, "serving");
    let end = async {
        // Without a signal handler there is nothing to wait for, and the process ends as it always would.
        let _ = tokio::signal::ctrl_c().await;
    };
    mesh.serve_until(listener, router, end).await;
    Ok(())
}

/// Has the task reviewed. The call continues the chain of the request by itself.
async fn task(
    State(reviewer): State<CalleeClient>,
    Extension(permitted): Extension<Permitted>,
    task: String,
) -> Result<String, (StatusCode, String)> {
    if let Some(context) = Context::current() {
        let (hop, left) = (context.hop(), context.remaining());
        tracing::info!(caller = %permitted.caller(), chain = %context.chain_id(), hop, left, "task");
    }
    let request = http::Request::post("/reviews")
        .body(task)
        .map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
    let answer = reviewer
        .http()
        .send(request)
        .await
        .map_err(|e| (StatusCode::BAD_GATEWAY, e.to_string()))?;
    let text = axum::body::to_bytes(answer.into_body(), 1024 * 1024).await;
    let text = text.map_err(|e| (StatusCode::BAD_GATEWAY, e.to_string()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
