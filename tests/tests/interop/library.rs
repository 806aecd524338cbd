//! The SPIFFE libraries of four languages: identities, JWT-SVIDs, rotations, and mutual TLS in every pair.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings};
use countersign_tests::process::PATIENCE;
use tokio::time::Instant;

use crate::peer::Peer;
use crate::{NODE, tool};

/// Short-lived enough for two rotations in a test, and long-lived enough for a slow start of a virtual machine.
const SHORT: &str = r#"  default_x509_svid_ttl = "20s""#;

async fn deployment() -> anyhow::Result<Deployment> {
    let settings = Settings {
        server: SHORT.into(),
        agent: FAST_SYNC.into(),
        ..Settings::default()
    };
    Deployment::start(NODE, settings).await
}

async fn start(deployment: &Deployment) -> anyhow::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for tool in tool::peers(deployment.folder()).await? {
        peers.push(Peer::start(deployment, &tool).await?);
    }
    Ok(peers)
}

/// Each peer calls each, itself too.
async fn call_all(peers: &mut [Peer]) -> anyhow::Result<()> {
    let places: Vec<_> = peers
        .iter()
        .map(|peer| (peer.address.clone(), peer.id.clone()))
        .collect();
    for peer in peers {
        for (address, id) in &places {
            peer.calls(address, id).await?;
        }
    }
    Ok(())
}

/// Waits until each peer has another SVID than the one given, and returns those that they have then.
async fn rotated(peers: &mut [Peer], before: &[String]) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    let mut now = Vec::new();
    for (peer, before) in peers.iter_mut().zip(before) {
        loop {
            let serial = peer.serial().await?;
            if serial != *before {
                now.push(serial);
                break;
            }
            ensure!(Instant::now() < deadline, "{} was not rotated", peer.id);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(now)
}

async fn serials(peers: &mut [Peer]) -> anyhow::Result<Vec<String>> {
    let mut serials = Vec::new();
    for peer in peers {
        serials.push(peer.serial().await?);
    }
    Ok(serials)
}

#[tokio::test]
async fn every_library_follows_rotations_and_calls_every_other() -> anyhow::Result<()> {
    let deployment = deployment().await?;
    let mut peers = start(&deployment).await?;
    for peer in &mut peers {
        let expected = format!("jwt {0} {0}", peer.id);
        assert_eq!(peer.ask("jwt reviewer").await?, expected);
        assert_ne!(peer.ask("bundle").await?, "bundle 0");
    }
    call_all(&mut peers).await?;
    let mut before = serials(&mut peers).await?;
    for _ in 0..2 {
        before = rotated(&mut peers, &before).await?;
        call_all(&mut peers).await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_library_takes_another_workload_for_the_one_it_calls() -> anyhow::Result<()> {
    let deployment = deployment().await?;
    let mut peers = start(&deployment).await?;
    let last = peers.last().context("no peer")?;
    let (address, other) = (last.address.clone(), format!("{}x", last.id));
    for peer in &mut peers {
        let answer = peer.ask(&format!("call {address} {other}")).await?;
        assert!(answer.starts_with("failed "), "{}: {answer}", peer.id);
    }
    Ok(())
}

#[tokio::test]
async fn every_library_keeps_its_identity_over_an_agent_restart() -> anyhow::Result<()> {
    let mut deployment = deployment().await?;
    let mut peers = start(&deployment).await?;
    let before = serials(&mut peers).await?;
    let mut agent = deployment.agent.take().context("no node agent")?;
    agent.terminate().await?;
    // Nobody serves them now, and all go on with what they have.
    call_all(&mut peers).await?;
    deployment.start_agent(None).await?;
    call_all(&mut peers).await?;
    rotated(&mut peers, &before).await?;
    call_all(&mut peers).await?;
    for peer in &mut peers {
        let expected = format!("jwt {0} {0}", peer.id);
        assert_eq!(peer.ask("jwt reviewer").await?, expected);
    }
    Ok(())
}
