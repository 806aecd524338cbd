//! The server, the entries and the node agent.

use anyhow::Context as _;

use crate::paper::Paper;
use crate::script::{NODE, Name, SHORT_TTL};
use crate::stage::{SERVER_SOCKET_VARIABLE, Stage};

/// What is shown as the program's name in front of a verb.
const SERVER: &str = "countersign-demo server";

/// Starts the daemons and registers the workloads by the commands that a person would use.
pub(crate) async fn set(stage: &mut Stage, paper: &mut Paper) -> anyhow::Result<()> {
    paper.scene("A server, a node agent, and who is who");
    let (pid, address) = stage.start_server().await?;
    paper.fact(
        "server",
        &format!("pid {pid}, serves node agents on {address}"),
    );
    paper.command(
        "export",
        &[&format!(
            "{SERVER_SOCKET_VARIABLE}={}",
            stage.server_socket().display()
        )],
    );

    let printed = run(stage, paper, &["token", "generate", "-spiffeID", NODE]).await?;
    let token = printed
        .trim()
        .strip_prefix("Token: ")
        .context("no token was printed")?
        .to_owned();
    // Good for one use, which follows; not shown whole, as tokens should not be.
    paper.output(&format!("Token: {}…", token.get(..8).unwrap_or_default()));
    for name in Name::ALL {
        register(stage, paper, name).await?;
    }
    let bundle = run(stage, paper, &["bundle", "show"]).await?;
    std::fs::write(stage.path("bundle.pem"), &bundle)?;
    paper.output(&format!(
        "{}… kept for the node agent",
        bundle.lines().next().unwrap_or_default()
    ));

    let pid = stage.start_agent(address, &token).await?;
    paper.fact(
        "node agent",
        &format!(
            "pid {pid}, has proved its node, serves workloads on {}",
            stage.endpoint()
        ),
    );
    let agents = run(stage, paper, &["agent", "list"]).await?;
    show_lines(paper, &agents, "SPIFFE ID");
    Ok(())
}

/// Registers one workload. All run under the same user, so that it is the program's path that tells them apart; each entry
/// asks for one thing more.
async fn register(stage: &Stage, paper: &mut Paper, name: Name) -> anyhow::Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let path = format!("unix:path:{}", stage.path(name.as_str()).display());
    let more = match name {
        Name::Planner | Name::Reviewer => format!("unix:uid:{uid}"),
        Name::Coder | Name::Intruder => format!("unix:gid:{gid}"),
    };
    let (id, ttl) = (name.id(), SHORT_TTL.as_secs().to_string());
    let mut args = vec![
        "entry",
        "create",
        "-spiffeID",
        &id,
        "-parentID",
        NODE,
        "-selector",
        &path,
        "-selector",
        &more,
    ];
    if name.is_short_lived() {
        args.extend(["-x509SVIDTTL", &ttl]);
    }
    let printed = run(stage, paper, &args).await?;
    show_lines(paper, &printed, "Entry ID");
    Ok(())
}

/// Runs a verb and shows it.
async fn run(stage: &Stage, paper: &mut Paper, args: &[&str]) -> anyhow::Result<String> {
    paper.command(SERVER, args);
    stage.server_cli(args).await?.succeeded(&args.join(" "))
}

/// Shows the lines of an output that begin with this.
fn show_lines(paper: &mut Paper, printed: &str, start: &str) {
    for line in printed
        .lines()
        .filter(|line| line.trim_start().starts_with(start))
    {
        paper.output(line);
    }
}
