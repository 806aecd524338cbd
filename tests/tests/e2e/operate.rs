//! What operators set and see.

use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_agent::workload_client::WorkloadClient;
use countersign_tests::deployment::{Deployment, Settings};
use tonic::{Code, Status};

use crate::NODE;

/// More than anybody asks in a second.
const MANY: usize = 10_000;

async fn bundles(socket: &Path) -> anyhow::Result<Result<(), Status>> {
    let mut client = WorkloadClient::connect(socket).await?;
    Ok(client.x509_bundles().await.map(drop))
}

#[tokio::test]
async fn callers_that_ask_too_often_are_told_to_come_back_and_others_and_health_are_not()
-> anyhow::Result<()> {
    let settings = Settings {
        agent: "  experimental {\n    ratelimit {\n      fetch_x509_svid = 1\n      fetch_x509_bundles = 1\n    }\n  }".into(),
        ..Settings::default()
    };
    let deployment = Deployment::start(NODE, settings).await?;
    let socket = deployment.agent_socket();
    let mut refused = None;
    for _ in 0..MANY {
        if let Err(status) = bundles(&socket).await? {
            refused = Some(status);
            break;
        }
    }
    let status = refused.context("nothing was refused")?;
    ensure!(status.code() == Code::Unavailable, "{status}");
    let told = "rate limit exceeded for /SpiffeWorkloadAPI/FetchX509Bundles";
    ensure!(status.message() == told, "{status}");

    // The node agent asks itself how it is by the method that has a rate of 1.
    for _ in 0..5 {
        let ran = deployment.agent_cli(&["healthcheck"]).await?;
        ensure!(ran.status.success(), "{ran:?}");
    }
    Ok(())
}
