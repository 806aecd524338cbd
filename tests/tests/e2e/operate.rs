//! What operators set and see.

use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_agent::workload_client::WorkloadClient;
use countersign_tests::deployment::{Deployment, Settings, text};
use countersign_tests::process::{self, PATIENCE};
use tokio::net::UnixDatagram;
use tonic::{Code, Status};

use crate::NODE;

/// More than anybody asks in a second.
const MANY: usize = 10_000;

async fn bundles(socket: &Path) -> anyhow::Result<Result<(), Status>> {
    let mut client = WorkloadClient::connect(socket).await?;
    Ok(client.x509_bundles().await.map(drop))
}

#[tokio::test]
async fn a_caller_over_its_rate_is_refused_and_health_is_not() -> anyhow::Result<()> {
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

/// What systemd is told, as it would hear it.
struct Manager(UnixDatagram);

impl Manager {
    /// Listens in this folder; the environment of a unit with `Type=notify` and `WatchdogSec=2s`.
    fn listen(folder: &Path, name: &str) -> anyhow::Result<(Self, Vec<(String, String)>)> {
        let path = folder.join(name);
        let socket = UnixDatagram::bind(&path)?;
        let env = [
            ("NOTIFY_SOCKET", text(&path)?),
            ("WATCHDOG_USEC", "2000000"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok((Self(socket), env.to_vec()))
    }

    /// Everything up to this line.
    async fn hears(&self, wanted: &str) -> anyhow::Result<Vec<String>> {
        let mut heard = Vec::new();
        let hearing = async {
            loop {
                let mut message = [0; 512];
                let length = self.0.recv(&mut message).await?;
                let message = message.get(..length).unwrap_or_default();
                heard.extend(str::from_utf8(message)?.lines().map(str::to_owned));
                if heard.iter().any(|line| line == wanted) {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        };
        let heard_it = tokio::time::timeout(PATIENCE, hearing).await;
        heard_it.with_context(|| format!("{wanted} was not said"))??;
        Ok(heard)
    }
}

#[tokio::test]
async fn systemd_hears_of_start_end_and_liveness() -> anyhow::Result<()> {
    let folder = process::short_folder()?;
    let (of_server, server_env) = Manager::listen(folder.path(), "s")?;
    let (of_agent, agent_env) = Manager::listen(folder.path(), "a")?;
    let settings = Settings {
        server_env,
        agent_env,
        ..Settings::default()
    };
    let mut deployment = Deployment::new(NODE, settings)?;
    deployment.start_server().await?;
    let heard = of_server.hears("READY=1").await?;
    ensure!(!heard.contains(&"STOPPING=1".to_owned()), "{heard:?}");

    // Not before callers are served, which takes an attestation.
    let mut waiting = deployment.spawn_agent(None).await?;
    ensure!(
        !waiting.wait().await?.success(),
        "it started without a token"
    );
    let mut buffer = [0; 512];
    while let Ok(length) = of_agent.0.try_recv(&mut buffer) {
        let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        ensure!(
            !said.contains("READY=1"),
            "it was ready without an identity"
        );
    }
    let token = deployment.token(None).await?;
    deployment.start_agent(Some(&token)).await?;
    of_agent.hears("READY=1").await?;
    let health = deployment.agent_cli(&["healthcheck"]).await?;
    ensure!(health.status.success(), "{health:?}");

    for manager in [&of_server, &of_agent] {
        for _ in 0..2 {
            manager.hears("WATCHDOG=1").await?;
        }
    }
    for (process, manager) in [
        (&mut deployment.agent, &of_agent),
        (&mut deployment.server, &of_server),
    ] {
        let ended = process.take().context("it has ended")?.terminate().await?;
        ensure!(ended.success(), "{ended}");
        manager.hears("STOPPING=1").await?;
    }
    Ok(())
}
