//! A workload with the right to originate: starts one piece of work and makes all its calls as part of it.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/countersign/agent.sock COUNTERSIGN_POLICY=mesh.hcl \
//!     originator spiffe://ai-agents.org/coder/1 https://10.0.0.7:8443 "first task" "second task"
//! ```
//!
//! Without tasks it asks the callee's gRPC health service instead.

use std::num::NonZeroU16;

use anyhow::Context as _;
use countersign::{CallError, Chain, Mesh, Refused};
use countersign_proto::grpc::health::v1::HealthCheckRequest;
use countersign_proto::grpc::health::v1::health_client::HealthClient;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let usage = "usage: originator CALLEE_ID CALLEE_ADDRESS [TASK]...";
    let mut arguments = std::env::args().skip(1);
    let (callee, address) = (
        arguments.next().context(usage)?,
        arguments.next().context(usage)?,
    );
    let tasks: Vec<String> = arguments.collect();

    let mesh = Mesh::join().await?;
    let coder = mesh.client(callee)?.at(address)?;
    let work = Chain::start(&mesh)?;
    let Some(count) = u16::try_from(tasks.len()).ok().and_then(NonZeroU16::new) else {
        let mut health = HealthClient::new(coder.grpc());
        match work
            .scope(health.check(HealthCheckRequest::default()))
            .await
        {
            Ok(answer) => tracing::info!(status = answer.into_inner().status, "Healthy"),
            Err(status) => tracing::warn!(
                reason = Refused::try_from(&status).ok().map(|r| r.reason().as_str()),
                "{}",
                status.message()
            ),
        }
        return Ok(());
    };
    // Each task gets the same share of the budget.
    let coder = coder.grant(work.context().split(count));
    for task in tasks {
        let request = http::Request::post("/tasks").body(task)?;
        match work.scope(coder.http().send(request)).await {
            Ok(answer) => {
                let text = axum::body::to_bytes(answer.into_body(), 1024 * 1024).await?;
                tracing::info!(answer = %String::from_utf8_lossy(&text), "Done");
            }
            // A sentence that can be given to a model as it is.
            Err(CallError::Refused(refused)) => {
                tracing::warn!(reason = %refused.reason(), "{refused}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(left = work.context().remaining(), "Calls left");
    Ok(())
}
