//! The planner: the one workload that may start chains. It gives the coder a task, and takes findings.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use countersign::{CalleeClient, Chain};
use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::agent::{self, Agent};
use crate::protocol::{Event, Order, Outcome, Steady};
use crate::script::{FLOOD_GRANT, Name, STEADY_EVERY};

/// How many pairs of steady calls belong to one chain.
const PAIRS: u32 = 20;

/// The steady calls, if they go on.
#[derive(Debug, Default)]
pub(super) struct Planner {
    steady: Option<(CancellationToken, JoinHandle<anyhow::Result<Steady>>)>,
}

/// Nothing gets to this handler: policy allows the edge, but the planner is in the chain of whoever calls already.
pub(super) fn router() -> Router {
    Router::new().route("/findings", post(findings))
}

async fn findings() -> StatusCode {
    agent::report_handling("/findings");
    StatusCode::NO_CONTENT
}

impl Planner {
    pub(super) async fn follow(&mut self, agent: &Arc<Agent>, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Task { hand_back } => {
                let chain = Chain::start(&agent.mesh)?;
                let task = serde_json::to_vec(&hand_back)?.into();
                let coder = agent.client(Name::Coder)?;
                chain.scope(agent.call(coder, "/tasks", task)).await;
            }
            Order::Flood => {
                let chain = Chain::start(&agent.mesh)?;
                let coder = agent.client(Name::Coder)?.grant(FLOOD_GRANT);
                chain
                    .scope(agent.call(&coder, "/drafts", Bytes::new()))
                    .await;
            }
            Order::StartCalls => {
                let stop = CancellationToken::new();
                let calling = tokio::spawn(call_steadily(Arc::clone(agent), stop.clone()));
                self.steady = Some((stop, calling));
            }
            Order::StopCalls => {
                let (stop, calling) = self.steady.take().context("there are no steady calls")?;
                stop.cancel();
                agent::report(&Event::CallsStopped(calling.await??));
            }
            Order::Connect { .. } | Order::Intrude => bail!("a planner cannot follow {order:?}"),
        }
        Ok(())
    }
}

/// Calls the coder in pairs until `stop`: by a client that keeps its connection, and over a new connection.
async fn call_steadily(agent: Arc<Agent>, stop: CancellationToken) -> anyhow::Result<Steady> {
    let mut steady = Steady::default();
    let mut ticks = tokio::time::interval(STEADY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let kept = agent.client(Name::Coder)?;
    loop {
        let chain = Chain::start(&agent.mesh)?;
        for _ in 0..PAIRS {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                return Ok(steady);
            }
            let fresh = agent.fresh_client(Name::Coder)?;
            let outcomes = chain
                .scope(async { [ping(kept).await, ping(&fresh).await] })
                .await;
            steady.kept += 1;
            steady.fresh += 1;
            for outcome in outcomes {
                steady.note(outcome);
            }
        }
    }
}

async fn ping(coder: &CalleeClient) -> Outcome {
    agent::outcome(&agent::post(coder, "/ping", Bytes::new()).await)
}

impl Steady {
    fn note(&mut self, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Answered => return,
            Outcome::Refused { reason, .. } => format!("refused: {reason}"),
            Outcome::Failed { error } => error,
        };
        self.failed += 1;
        self.first_failure.get_or_insert(failure);
    }
}
