//! The reviewer: judges what the coder brings and, never content, wants the planner to start over. That is the loop.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_tests::attacker::Attacker;

use super::coder::answer;
use super::part::{self, Part};
use super::serving::Raw;
use crate::event::{Client, Ending, Event, Made};
use crate::role::intruder;
use crate::script::Name;

pub(super) fn router(part: &Arc<Part>) -> Router {
    Router::new()
        .route("/reviews", post(reviews))
        .route("/checks", post(checks))
        .with_state(Arc::clone(part))
}

async fn reviews(State(part): State<Arc<Part>>, request: Request) -> Response {
    let done = review(&part, request).await;
    answer(&part, done)
}

async fn checks() {}

async fn review(part: &Arc<Part>, request: Request) -> anyhow::Result<Bytes> {
    part.tell_handling("/reviews")?;
    let raw = request
        .extensions()
        .get::<Raw>()
        .cloned()
        .context("no raw request")?;
    let body = part::read(request.into_body()).await?;
    match serde_json::from_slice(&body)? {
        Ending::ByLibrary => {
            part.call(part.client(Name::Planner)?, "/findings", Bytes::new())
                .await?;
        }
        Ending::ByHand => send_all_the_same(part, &raw).await?,
    }
    Ok(Bytes::new())
}

/// What somebody would write who wants the loop: takes the chain off the wire, signs the next link with the real key,
/// and sends it over a connection of its own. The library never sees this call.
async fn send_all_the_same(part: &Part, raw: &Raw) -> anyhow::Result<()> {
    let attacker = Attacker::join(part.endpoint(), &part.name().id()).await?;
    let context = attacker.received("POST", "/reviews", &raw.headers, raw.peer.chain())?;
    let callee = SpiffeId::parse(&Name::Planner.id())?;
    let place = part.place(Name::Planner)?.to_string();
    let response = attacker
        .call(&context, &callee, &place, "/findings", Bytes::new())
        .await?;
    part.tell(&Event::Made(Made {
        members: part.members(),
        callee: callee.to_string(),
        action: "POST /findings".to_owned(),
        client: Client::HandMade,
        outcome: intruder::read(&response),
    }));
    Ok(())
}
