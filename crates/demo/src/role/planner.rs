//! The planner: the one workload that may start work. It gives the coder a task, and takes findings.

mod steady;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use countersign::Chain;
use http::StatusCode;

use super::part::Part;
use crate::event::{Event, Order};
use crate::script::{FLOOD_GRANT, Name};
use steady::Steadily;

/// What goes on beside the orders.
#[derive(Debug, Default)]
pub(super) struct Planner {
    steadily: Option<Steadily>,
}

pub(super) fn router(part: &Arc<Part>) -> Router {
    Router::new()
        .route("/findings", post(findings))
        .with_state(Arc::clone(part))
}

/// Nothing gets here: policy allows the edge, but whoever calls was called by the planner before.
async fn findings(State(part): State<Arc<Part>>) -> StatusCode {
    match part.tell_handling("/findings") {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(error) => {
            part.fault(&error);
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl Planner {
    pub(super) async fn follow(&mut self, part: &Arc<Part>, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Task { end } => {
                let chain = Chain::start(part.mesh())?;
                let body = serde_json::to_vec(&end)?.into();
                chain
                    .scope(part.call(part.client(Name::Coder)?, "/tasks", body))
                    .await
            }
            Order::Flood => {
                let chain = Chain::start(part.mesh())?;
                let coder = part.client(Name::Coder)?.grant(FLOOD_GRANT);
                chain
                    .scope(part.call(&coder, "/drafts", Bytes::new()))
                    .await
            }
            Order::Steady => {
                self.steadily = Some(Steadily::start(Arc::clone(part)));
                Ok(())
            }
            Order::Rest => {
                let steadily = self.steadily.take().context("nothing goes on steadily")?;
                part.tell(&Event::Rested(steadily.stop().await?));
                Ok(())
            }
            order => bail!("a planner cannot carry out {order:?}"),
        }
    }
}
