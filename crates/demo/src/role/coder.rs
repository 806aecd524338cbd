//! The coder: works on tasks, asks the reviewer about them, and says to the planner that it is there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use countersign::{CallError, CalleeClient, RefusedBy};
use countersign_transport::Connection;
use futures::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

use super::part::{self, Part, Unanswered};
use crate::event::{Event, Flood, Pong};
use crate::script::{FLOOD, Name};

pub(super) fn router(part: &Arc<Part>) -> Router {
    Router::new()
        .route("/tasks", post(tasks))
        .route("/drafts", post(drafts))
        .route("/ping", post(ping))
        .with_state(Arc::clone(part))
}

/// Has the reviewer look at the work, in the chain of the call that brought it.
async fn tasks(State(part): State<Arc<Part>>, request: Request) -> Response {
    let done = async {
        part.tell_handling("/tasks")?;
        let body = part::read(request.into_body()).await?;
        part.call(part.client(Name::Reviewer)?, "/reviews", body)
            .await?;
        Ok(Bytes::new())
    };
    answer(&part, done.await)
}

/// Gets carried away: has the reviewer check far too many drafts at once.
async fn drafts(State(part): State<Arc<Part>>) -> Response {
    let done = async {
        part.tell_handling("/drafts")?;
        let flood = flood(part.client(Name::Reviewer)?).await;
        part.tell(&Event::Flooded(flood));
        Ok(Bytes::new())
    };
    answer(&part, done.await)
}

/// Says which certificates this call was made under.
async fn ping(State(part): State<Arc<Part>>, request: Request) -> Response {
    let pong = || {
        let connection = request
            .extensions()
            .get::<Arc<Connection>>()
            .context("no connection")?;
        let (peer, presented) = (connection.peer.as_ref(), connection.presented.as_ref());
        let pong = Pong {
            caller_serial: peer.context("no peer")?.serial.clone(),
            callee_end: presented.context("nothing presented")?.not_after.as_secs(),
        };
        Ok(serde_json::to_vec(&pong)?.into())
    };
    answer(&part, pong())
}

/// The answer of a handler; its fault is told.
pub(super) fn answer(part: &Part, done: anyhow::Result<Bytes>) -> Response {
    let (status, body) = match done {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            part.fault(&error);
            (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

async fn flood(reviewer: &CalleeClient) -> Flood {
    let mut flood = Flood::default();
    let started = Instant::now();
    // The first one opens the connection that the others share.
    flood.note(check(reviewer).await);
    let others = join_all((1..FLOOD).map(|_| check(reviewer))).await;
    others.into_iter().for_each(|result| flood.note(result));
    flood.took_ms = millis(started.elapsed());
    tokio::time::sleep(Duration::from_millis(flood.wait_ms)).await;
    flood.served_after_wait = check(reviewer).await.is_ok();
    flood
}

async fn check(reviewer: &CalleeClient) -> Result<Bytes, Unanswered> {
    part::post(reviewer, "/checks", Bytes::new()).await
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Flood {
    fn note(&mut self, result: Result<Bytes, Unanswered>) {
        self.made += 1;
        match result {
            Ok(_) => self.served += 1,
            Err(Unanswered::Call(CallError::Refused(refused)))
                if refused.by() == RefusedBy::Callee =>
            {
                *self
                    .refused
                    .entry(refused.reason().to_string())
                    .or_default() += 1;
                self.wait_ms = self.wait_ms.max(refused.retry_after().map_or(0, millis));
            }
            Err(other) => {
                let text = match other {
                    Unanswered::Call(error) => error.to_string(),
                    Unanswered::Answer(error) => format!("{error:#}"),
                };
                self.other.get_or_insert(text);
            }
        }
    }
}
