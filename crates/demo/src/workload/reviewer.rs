//! The reviewer: judges what the coder brings and, never content, wants the planner to start over. That is the loop.

use std::sync::Arc;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use http::StatusCode;

use super::agent::{self, Agent};
use super::watch::Raw;
use crate::protocol::Client;
use crate::script::Name;

pub(super) fn router(agent: &Arc<Agent>) -> Router {
    Router::new()
        .route("/reviews", post(reviews))
        .route("/checks", post(async || StatusCode::NO_CONTENT))
        .with_state(Arc::clone(agent))
}

async fn reviews(
    State(agent): State<Arc<Agent>>,
    Extension(raw): Extension<Raw>,
    work: Bytes,
) -> StatusCode {
    agent::report_handling("/reviews");
    agent::answer(hand_back(&agent, &raw, &work).await)
}

async fn hand_back(agent: &Agent, raw: &Raw, work: &[u8]) -> anyhow::Result<()> {
    match serde_json::from_slice(work).context("reading the task")? {
        Client::Library => {
            agent
                .call(agent.client(Name::Planner)?, "/findings", Bytes::new())
                .await;
            Ok(())
        }
        // What a program would do that wants the loop: it takes the chain off the wire, signs the next link with the
        // real key, and sends it over a connection of its own. The library never sees this call.
        Client::HandMade => {
            let chain = |attacker: &countersign_attacker::Attacker| {
                attacker.received("POST", "/reviews", &raw.headers, raw.peer.chain())
            };
            agent.call_by_hand(Name::Planner, "/findings", chain).await
        }
    }
}
