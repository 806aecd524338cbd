//! An agent that serves tasks over HTTP and hands each on to a reviewer.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/countersign/agent.sock COUNTERSIGN_POLICY=mesh.hcl \
//!     axum_agent 0.0.0.0:8443 spiffe://ai-agents.org/reviewer https://10.0.0.8:8443
//! ```

use std::error::Error;

use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Router, body};
use countersign::{Body, Context, HttpClient, Mesh, Permitted};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: axum_agent LISTEN REVIEWER_ID REVIEWER_ADDRESS")
    };
    let (listen, reviewer, address) = (next()?, next()?, next()?);

    let mesh = Mesh::join().await?;
    let reviewer = mesh.client(reviewer)?.at(address)?.http();
    let router = Router::new()
        .route("/tasks", post(task))
        .with_state(reviewer);
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(id = %mesh.svid()?.id(), address = %listener.local_addr()?, "Serving");
    // Without a signal handler there is nothing to wait for, and the process ends as it always would.
    let signal = async { drop(tokio::signal::ctrl_c().await) };
    mesh.serve_with_shutdown(listener, router, signal).await?;
    Ok(())
}

/// Has the task reviewed. The call continues the chain of the request by itself.
async fn task(
    State(reviewer): State<HttpClient>,
    permitted: Permitted,
    context: Context,
    task: String,
) -> Result<Vec<u8>, (StatusCode, String)> {
    let (hop, left) = (context.hop(), context.remaining());
    tracing::info!(caller = %permitted.caller(), chain = %context.chain_id(), hop, left, "Task");
    let request = Request::post("/reviews")
        .body(Body::from(task))
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    // A refusal says in plain words what to do.
    let review = reviewer
        .send(request)
        .await
        .map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    let review = body::to_bytes(review.into_body(), 1024 * 1024).await;
    let review = review.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    Ok(review.into())
}
