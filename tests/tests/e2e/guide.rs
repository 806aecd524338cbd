//! The configuration of a widely read guide starts the server as it stands, and an ID made with a join token is a
//! parent for entries.

use countersign_tests::deployment::{Deployment, Settings, TRUST_DOMAIN, succeeded, text};
use countersign_tests::process::{self, Process};

use crate::NODE;

#[tokio::test]
async fn the_guides_configuration_starts_the_server() -> anyhow::Result<()> {
    let folder = process::short_folder()?;
    let data = folder.path().join("data");
    let config = folder.path().join("server.conf");
    std::fs::write(
        &config,
        format!(
            r#"server {{
  bind_address = "0.0.0.0"
  bind_port = "0"
  trust_domain = "ai-agents.org"
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{
    }}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{}"
    }}
  }}
}}
"#,
            data.display()
        )
        // A server under test listens on loopback.
        .replace("0.0.0.0", "127.0.0.1"),
    )?;
    let socket = folder.path().join("api.sock");
    let addresses = folder.path().join("addr");
    let args = [
        "server",
        "run",
        "-config",
        text(&config)?,
        "-socketPath",
        text(&socket)?,
        "-addressFile",
        text(&addresses)?,
    ];
    let mut server = Process::start("server", NODE.as_ref(), &args, &[])?;
    server.wrote(&addresses).await?;
    assert!(
        server.output().contains("data_dir"),
        "no warning: {}",
        server.output()
    );
    assert!(data.exists());
    let id = "spiffe://ai-agents.org/data-scrubber";
    let args = [
        "server",
        "token",
        "generate",
        "-spiffeID",
        id,
        "-socketPath",
        text(&socket)?,
    ];
    let printed = succeeded(
        "token generate",
        process::run(NODE.as_ref(), &args, &[]).await?,
    )?;
    assert!(printed.starts_with("Token: "), "{printed}");
    assert!(server.terminate().await?.success(), "{}", server.output());
    Ok(())
}

#[tokio::test]
async fn an_id_made_with_a_join_token_is_a_parent_for_entries() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    deployment.start_server().await?;
    let node = format!("spiffe://{TRUST_DOMAIN}/data-scrubber");
    let token = deployment.token(Some(&node)).await?;
    deployment.start_agent(Some(&token)).await?;
    let workload = format!("spiffe://{TRUST_DOMAIN}/workload");
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    let args = [
        "entry",
        "create",
        "-spiffeID",
        &workload,
        "-parentID",
        &node,
        "-selector",
        &uid,
    ];
    let printed = succeeded("entry create", deployment.server_cli(&args).await?)?;
    assert!(
        printed.contains(&workload) && printed.contains(&node),
        "{printed}"
    );
    let this = countersign_tests::deployment::Workload {
        id: workload.clone(),
        program: NODE.into(),
    };
    let fetched = deployment.fetched(&this).await?;
    assert!(fetched.contains(&workload), "{fetched}");
    Ok(())
}
