//! The coder: works on tasks, and asks the reviewer about them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use countersign::{CallError, CalleeClient};
use futures::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

use super::agent::{self, Agent};
use crate::protocol::{Event, Flood, Outcome};
use crate::script::{FLOOD, Name};

pub(super) fn router(agent: &Arc<Agent>) -> Router {
    Router::new()
        .route("/tasks", post(tasks))
        .route("/drafts", post(drafts))
        .route("/ping", post(async || StatusCode::NO_CONTENT))
        .with_state(Arc::clone(agent))
}

/// Has the reviewer look at the work. The call continues the chain of the one that is being handled.
async fn tasks(State(agent): State<Arc<Agent>>, task: Bytes) -> StatusCode {
    agent::report_handling("/tasks");
    let reviewer = match agent.client(Name::Reviewer) {
        Ok(reviewer) => reviewer,
        Err(error) => return agent::answer(Err(error)),
    };
    agent.call(reviewer, "/reviews", task).await;
    StatusCode::NO_CONTENT
}

/// Gets carried away: has the reviewer check far too many drafts at once.
async fn drafts(State(agent): State<Arc<Agent>>) -> StatusCode {
    agent::report_handling("/drafts");
    let reviewer = match agent.client(Name::Reviewer) {
        Ok(reviewer) => reviewer,
        Err(error) => return agent::answer(Err(error)),
    };
    agent::report(&Event::Flooded(flood(reviewer).await));
    StatusCode::NO_CONTENT
}

async fn flood(reviewer: &CalleeClient) -> Flood {
    let mut flood = Flood::default();
    let started = Instant::now();
    // The first one opens the connection that the others share.
    flood.note(&check(reviewer).await);
    let others = join_all((1..FLOOD).map(|_| check(reviewer))).await;
    others.iter().for_each(|result| flood.note(result));
    flood.took_ms = millis(started.elapsed());
    tokio::time::sleep(Duration::from_millis(flood.wait_ms)).await;
    flood.served_after_wait = check(reviewer).await.is_ok();
    flood
}

async fn check(reviewer: &CalleeClient) -> Result<StatusCode, CallError> {
    agent::post(reviewer, "/checks", Bytes::new()).await
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Flood {
    fn note(&mut self, result: &Result<StatusCode, CallError>) {
        if let Err(CallError::Refused(refused)) = result {
            self.wait_ms = self.wait_ms.max(refused.retry_after().map_or(0, millis));
        }
        match agent::outcome(result) {
            Outcome::Answered => self.served += 1,
            Outcome::Refused { reason, .. } => *self.refused.entry(reason).or_default() += 1,
            Outcome::Failed { error } => drop(self.other.get_or_insert(error)),
        }
    }
}
