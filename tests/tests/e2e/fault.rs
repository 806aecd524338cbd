//! What goes wrong at the start is said, with what to do, and ends with an exit code.

use countersign_tests::deployment::{Deployment, Settings, text};
use countersign_tests::process::{self, Process};
use nix::sys::signal::Signal;

use crate::NODE;

/// Runs the server with this configuration to its end; returns exit code and output.
async fn refused(part: &str, config: &str, args: &[&str]) -> anyhow::Result<(i32, String)> {
    let folder = process::short_folder()?;
    let path = folder.path().join("broken.conf");
    std::fs::write(&path, config)?;
    let mut all = vec![part, "run", "-config", text(&path)?];
    all.extend(args);
    let mut process = Process::start(part, NODE.as_ref(), &all, &[])?;
    let status = process.wait().await?;
    // The readers of the two pipes may lag behind the end of the process.
    tokio::task::yield_now().await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let output = process.output();
    assert!(!output.contains("panicked"), "{output}");
    Ok((status.code().unwrap_or(-1), output))
}

#[tokio::test]
async fn a_broken_configuration_is_refused_with_file_line_and_key() -> anyhow::Result<()> {
    let config = "server {\n  trust_domain = \"td\"\n  bind_prot = 8081\n}\n";
    let (code, output) = refused("server", config, &[]).await?;
    assert_eq!(code, 64, "{output}");
    for part in ["broken.conf", "3", "bind_prot", "bind_port"] {
        assert!(output.contains(part), "{part} is missing: {output}");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    deployment.start_server().await?;
    let config = deployment.folder().join("server.conf");
    let socket = deployment.folder().join("other.sock");
    let args = [
        "server",
        "run",
        "-config",
        text(&config)?,
        "-socketPath",
        text(&socket)?,
    ];
    let args = [&args[..], &["-serverPort", "0"]].concat();
    let mut second = Process::start("second server", NODE.as_ref(), &args, &[])?;
    let status = second.wait().await?;
    assert!(!status.success());
    assert!(!second.output().contains("panicked"), "{}", second.output());
    // The first one is none the worse for it.
    deployment.token(None).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_node_agent_on_the_same_socket_is_refused() -> anyhow::Result<()> {
    let deployment = Deployment::start(NODE, Settings::default()).await?;
    let mut second = deployment.spawn_agent(None).await?;
    let status = second.wait().await?;
    assert!(!status.success());
    assert!(!second.output().contains("panicked"), "{}", second.output());
    Ok(())
}

#[tokio::test]
async fn a_used_token_ends_the_node_agent_with_a_reason() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    deployment.start_server().await?;
    let token = deployment.token(None).await?;
    deployment.start_agent(Some(&token)).await?;
    if let Some(agent) = deployment.agent.as_mut() {
        agent.kill().await?;
    }
    std::fs::remove_dir_all(deployment.folder().join("agent"))?;
    let mut again = deployment.spawn_agent(Some(&token)).await?;
    let status = again.wait().await?;
    assert!(!status.success());
    assert!(again.output().contains("token"), "{}", again.output());
    Ok(())
}

#[tokio::test]
async fn a_wrong_trust_bundle_is_told() -> anyhow::Result<()> {
    let mut other = Deployment::new(NODE, Settings::default())?;
    other.start_server().await?;
    let shown = other.server_cli(&["bundle", "show"]).await?;
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    deployment.start_server().await?;
    std::fs::write(deployment.folder().join("bundle.pem"), shown.stdout)?;
    let token = deployment.token(None).await?;
    let mut agent = deployment.spawn_agent(Some(&token)).await?;
    agent.printed("trust bundle").await?;
    Ok(())
}

#[tokio::test]
async fn daemons_end_cleanly_when_asked() -> anyhow::Result<()> {
    let mut deployment = Deployment::start(NODE, Settings::default()).await?;
    for process in [&mut deployment.agent, &mut deployment.server] {
        let process = process
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("not running"))?;
        process.signal(Signal::SIGTERM)?;
        assert!(process.wait().await?.success(), "{}", process.output());
    }
    assert!(!deployment.agent_socket().exists() && !deployment.server_socket().exists());
    Ok(())
}
