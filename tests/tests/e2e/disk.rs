//! A disk that takes nothing more. `prlimit` lets the files of a running process grow no further, and the kernel fails
//! its writes then, on any file system and without privileges.

use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_daemon::address_file::{self, Listening};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings};
use countersign_tests::process::{self, PATIENCE, Process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::NODE;

/// How much the process may write into files from now on.
#[derive(Clone, Copy)]
enum Room {
    None,
    Enough,
}

async fn leave(room: Room, process: &Process) -> anyhow::Result<()> {
    let pid = process.pid().context("it does not run")?.to_string();
    // The soft limit alone, so that it can be raised again.
    let limit = match room {
        Room::None => "--fsize=0:",
        Room::Enough => "--fsize=unlimited:",
    };
    let ran = process::run(Path::new("prlimit"), &["--pid", &pid, limit], &[]).await?;
    ensure!(ran.status.success(), "{ran:?}");
    Ok(())
}

/// Daemons that are asked for their health, on whatever port is free.
pub(crate) fn with_health() -> Settings {
    Settings {
        agent: FAST_SYNC.into(),
        sections: "health_checks {\n  listener_enabled = true\n  bind_port = 0\n}".into(),
        ..Settings::default()
    }
}

/// What the node agent says of itself.
async fn health(deployment: &Deployment) -> anyhow::Result<String> {
    let places = address_file::read(&deployment.folder().join("agent.addr"))?;
    let address = places.iter().find_map(|place| match place {
        Listening::Health(address) => Some(*address),
        _ => None,
    });
    let mut stream = TcpStream::connect(address.context("no health")?).await?;
    let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The node agent's health, once all these are in it.
pub(crate) async fn health_until(
    deployment: &Deployment,
    parts: &[&str],
) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let told = health(deployment).await?;
        if parts.iter().all(|part| told.contains(part)) {
            return Ok(told);
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{parts:?} is not in: {told}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_node_agent_serves_on_while_its_disk_is_full() -> anyhow::Result<()> {
    let mut deployment = Deployment::start(NODE, with_health()).await?;
    let early = deployment.register("/early", &[]).await?;
    deployment.fetched(&early).await?;

    leave(Room::None, deployment.agent.as_ref().context("no agent")?).await?;
    let late = deployment.register("/late", &[]).await?;
    deployment.fetched(&late).await?;
    deployment.fetched(&early).await?;
    let told = health_until(&deployment, &["degraded", "agent-svids.bin"]).await?;
    ensure!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
    let left = std::fs::read_dir(deployment.folder().join("agent"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".new"))
        .count();
    ensure!(left == 0, "half a file is left");

    // There is room again: what could not be kept is, at the latest when the process ends, and the next one serves it
    // without the server.
    let agent = deployment.agent.as_mut().context("no agent")?;
    leave(Room::Enough, agent).await?;
    let ended = agent.terminate().await?;
    ensure!(ended.success(), "{ended}: {}", agent.output());
    deployment
        .server
        .as_mut()
        .context("no server")?
        .kill()
        .await?;
    deployment.start_agent(None).await?;
    deployment.fetched(&late).await?;
    Ok(())
}
