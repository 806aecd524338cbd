//! Agents in one process, as users of the crate test theirs.

use axum::Router;
use axum::routing::post;
use countersign::test::{TestMesh, TestMeshError};
use countersign::{CallError, Chain, Context, Reason};
use http::Request;

use crate::fixture::{OPEN, text_of};

fn id(name: &str) -> String {
    format!("spiffe://ai-agents.org/{name}")
}

fn task() -> Request<&'static str> {
    Request::post("/tasks").body("").unwrap()
}

#[tokio::test]
async fn agents_of_one_process_call_each_other() {
    let test = TestMesh::new(OPEN).unwrap();
    let planner = test.agent(id("planner")).unwrap();
    let coder = test.agent(id("coder")).unwrap();
    let originator = async |context: Context| context.originator().to_string();
    coder.serve(Router::new().route("/tasks", post(originator)));
    let client = planner.client_of(&coder).unwrap().http();
    let answer = client.send(task()).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, id("planner"));

    let error = coder.client_of(&planner).unwrap().http().send(task()).await;
    let error = error.unwrap_err();
    assert_eq!(error.refused().unwrap().reason(), Reason::OriginationDenied);
}

#[tokio::test]
async fn agents_rotate_and_lose_their_identity() {
    let test = TestMesh::new(OPEN).unwrap();
    let planner = test.agent(id("planner")).unwrap();
    let coder = test.agent(id("coder")).unwrap();
    coder.serve(Router::new().route("/tasks", post(async || "done")));
    let client = planner.client_of(&coder).unwrap().http();
    let updated = planner.mesh().updated();
    planner.rotate().unwrap();
    let svid = updated.await.unwrap();
    assert_eq!(svid, planner.mesh().svid().unwrap());
    client.send(task()).await.unwrap();
    planner.withdraw();
    let error = client.send(task()).await.unwrap_err();
    assert!(matches!(error, CallError::NoIdentity(_)), "{error}");
}

#[tokio::test]
async fn a_policy_of_the_test_can_change() {
    let test = TestMesh::new(OPEN).unwrap();
    let planner = test.agent(id("planner")).unwrap();
    Chain::start(planner.mesh()).unwrap();
    let error = test.set_policy("allow {").unwrap_err();
    assert!(matches!(error, TestMeshError::Policy(_)), "{error}");
    Chain::start(planner.mesh()).expect("the last policy stays");
    test.set_policy("").unwrap();
    let error = Chain::start(planner.mesh()).unwrap_err();
    assert_eq!(error.refused().unwrap().reason(), Reason::OriginationDenied);
}

#[tokio::test]
async fn agents_of_several_trust_domains_know_each_other() {
    let policy = OPEN.replace("spiffe://ai-agents.org/rogue", "spiffe://other.org/planner");
    let test = TestMesh::new(&policy).unwrap();
    let coder = test.agent(id("coder")).unwrap();
    coder.serve(Router::new().route("/tasks", post(async || "done")));
    let stranger = test.agent("spiffe://other.org/planner").unwrap();
    let error = stranger
        .client_of(&coder)
        .unwrap()
        .http()
        .send(task())
        .await;
    if let Err(error) = error {
        assert!(
            error.refused().is_some(),
            "only policy may stop it: {error}"
        );
    }
}

#[tokio::test]
#[should_panic(expected = "serves already")]
async fn an_agent_that_serves_twice_ends_the_test() {
    let test = TestMesh::new(OPEN).unwrap();
    let coder = test.agent(id("coder")).unwrap();
    coder.serve(Router::new());
    coder.serve(Router::new());
}
