//! Three agents in one process, under a policy that lets work go one way only: what a test of an agent looks like.

use std::error::Error;

use axum::Router;
use axum::http::Request;
use axum::routing::post;
use countersign::test::TestMesh;
use countersign::{Body, CalleeClient, Chain, Context};

const POLICY: &str = r#"
originate "planner starts work" {
  workloads  = ["spiffe://example.org/planner"]
  new_chains = "1/s burst 10"
}
allow "work goes on" {
  from    = ["spiffe://example.org/*"]
  to      = ["spiffe://example.org/*"]
  actions = ["POST /tasks"]
}
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let test = TestMesh::new(POLICY)?;
    let planner = test.agent("spiffe://example.org/planner")?;
    let coder = test.agent("spiffe://example.org/coder")?;
    let reviewer = test.agent("spiffe://example.org/reviewer")?;
    // Each hands its task on to the next, and the last to the first: a loop.
    planner.serve(hand_on_to(planner.client_of(&coder)?));
    coder.serve(hand_on_to(coder.client_of(&reviewer)?));
    reviewer.serve(hand_on_to(reviewer.client_of(&planner)?));

    let work = Chain::start(planner.mesh())?;
    let coder = planner.client_of(&coder)?.http();
    let request = Request::post("/tasks").body("write it")?;
    let answer = work.scope(coder.send(request)).await?;
    let answer = axum::body::to_bytes(answer.into_body(), 1024).await?;
    // The reviewer's call would have closed the circle.
    println(&String::from_utf8_lossy(&answer));
    Ok(())
}

/// A service that asks another agent and answers with what that answers, or with why it could not be asked.
fn hand_on_to(next: CalleeClient) -> Router {
    let task = async move |context: Context, task: String| {
        println(&format!("hop {}: {task}", context.hop()));
        match next.http().send(post_task(task)).await {
            Ok(answer) => answer.into_body(),
            Err(error) => Body::from(error.to_string()),
        }
    };
    Router::new().route("/tasks", post(task))
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn println(text: &str) {
    println!("{text}");
}

fn post_task(task: String) -> Request<Body> {
    let mut request = Request::new(Body::from(task));
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = axum::http::Uri::from_static("/tasks");
    request
}
