//! The test on the crate's front page, as it stands there.

// The front page begins.
use axum::{Router, routing::post};
use countersign::{Reason, test::TestMesh};
use http::Request;

const POLICY: &str = r#"
    originate "planner starts work" {
      workloads  = ["spiffe://example.org/planner"]
      new_chains = "1/s burst 10"
    }
    allow "planner gives tasks to coder" {
      from    = ["spiffe://example.org/planner"]
      to      = ["spiffe://example.org/coder"]
      actions = ["POST /tasks"]
    }
"#;

#[tokio::test]
async fn only_the_planner_gives_tasks() -> Result<(), Box<dyn std::error::Error>> {
    let mesh = TestMesh::new(POLICY)?;
    let planner = mesh.agent("spiffe://example.org/planner")?;
    let coder = mesh.agent("spiffe://example.org/coder")?;
    coder.serve(Router::new().route("/tasks", post(async |task: String| task + ": done")));

    let request = || Request::post("/tasks").body("write it");
    let answer = planner.client_of(&coder)?.http().send(request()?).await?;
    let answer = axum::body::to_bytes(answer.into_body(), 1024).await?;
    assert_eq!(answer, "write it: done");

    let reply = coder.client_of(&planner)?.http().send(request()?).await;
    let error = reply.expect_err("the coder may not start work");
    assert_eq!(
        error.refused().map(|r| r.reason()),
        Some(Reason::OriginationDenied)
    );
    Ok(())
}
// The front page ends.

#[test]
fn the_front_page_shows_the_test_that_runs() {
    let readme = include_str!("../../README.md");
    let (_, test) = include_str!("front_page.rs")
        .split_once("// The front page begins.\n")
        .unwrap();
    let (test, _) = test.split_once("// The front page ends.\n").unwrap();
    assert!(readme.contains(test), "README.md should contain:\n{test}");
}

#[test]
fn the_repositorys_readme_shows_an_agent_that_compiles() {
    let (_, agent) = include_str!("../../../README.md")
        .split_once("```rust\n")
        .unwrap();
    let (agent, _) = agent.split_once("```\n").unwrap();
    let tested = include_str!("../../README.md");
    assert!(
        tested.contains(agent),
        "the crate's README should contain:\n{agent}"
    );
}
