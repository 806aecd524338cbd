//! A node agent that was killed, at whatever moment, serves its workloads again without a new join token.

use std::time::Duration;

use anyhow::Context as _;
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings};

use crate::{NODE, rounds};

#[tokio::test]
async fn a_killed_node_agent_needs_no_new_token() -> anyhow::Result<()> {
    let mut deployment = Deployment::start(NODE, Settings::default()).await?;
    let workload = deployment.register("/workload", &[]).await?;
    deployment.fetched(&workload).await?;
    deployment
        .agent
        .as_mut()
        .context("no agent")?
        .kill()
        .await?;
    deployment.start_agent(None).await?;
    deployment.fetched(&workload).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_agent_killed_while_renewing_needs_no_new_token() -> anyhow::Result<()> {
    // So short a life that the node agent is always about to renew.
    let settings = Settings {
        server: "  agent_ttl = \"12s\"".into(),
        agent: FAST_SYNC.into(),
        ..Settings::default()
    };
    let mut deployment = Deployment::start(NODE, settings).await?;
    let workload = deployment.register("/workload", &[]).await?;
    for round in 0..rounds(4) {
        deployment
            .fetched(&workload)
            .await
            .with_context(|| format!("round {round}"))?;
        // Not waiting for anything: the moment is meant to be arbitrary.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..6000))).await;
        deployment
            .agent
            .as_mut()
            .context("no agent")?
            .kill()
            .await?;
        deployment
            .start_agent(None)
            .await
            .with_context(|| format!("round {round}"))?;
    }
    deployment.fetched(&workload).await?;
    Ok(())
}
