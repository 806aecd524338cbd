//! A node agent whose socket file is taken away from it while it runs.

use std::os::unix::net::UnixListener;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::Deployment;

use crate::NODE;
use crate::disk::{health_until, with_health};

#[tokio::test]
async fn a_removed_socket_comes_back_and_a_takeover_is_reported() -> anyhow::Result<()> {
    let mut deployment = Deployment::start(NODE, with_health()).await?;
    let workload = deployment.register("/workload", &[]).await?;
    deployment.fetched(&workload).await?;
    let socket = deployment.agent_socket();
    std::fs::remove_file(&socket)?;
    deployment.fetched(&workload).await?;

    // Another process serves there now; its file is left alone.
    let aside = deployment.folder().join("aside");
    let stranger = UnixListener::bind(&aside)?;
    std::fs::rename(&aside, &socket)?;
    let told = health_until(&deployment, &["another process already serves"]).await?;
    ensure!(
        told.starts_with("HTTP/1.1 500 ") && told.contains("workload_api"),
        "{told}"
    );
    // That process has ended and left its file behind.
    drop(stranger);
    deployment.fetched(&workload).await?;
    health_until(&deployment, &["HTTP/1.1 200 OK"]).await?;

    // At its end the node agent leaves alone what is not its own.
    let stranger = UnixListener::bind(&aside)?;
    std::fs::rename(&aside, &socket)?;
    let agent = deployment.agent.as_mut().context("no agent")?;
    let ended = agent.terminate().await?;
    ensure!(ended.success(), "{ended}: {}", agent.output());
    std::os::unix::net::UnixStream::connect(&socket)?;
    drop(stranger);
    Ok(())
}
