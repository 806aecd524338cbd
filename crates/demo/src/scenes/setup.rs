//! The server, the entries and the node agent, by the commands that a person would use.

use anyhow::{Context as _, ensure};

use crate::cluster::SERVER_SOCKET_VARIABLE;
use crate::scenes::Show;
use crate::script::{NODE, Name, SHORT_TTL};

/// Starts the daemons and registers the workloads.
pub(crate) async fn setup(show: &mut Show) -> anyhow::Result<()> {
    show.out.scene("A server, a node agent, and who is who");
    let (pid, address) = show.cluster.start_server().await?;
    show.out.fact(
        "server",
        &format!("pid {pid}, serves node agents on {address}"),
    );
    let socket = format!("{SERVER_SOCKET_VARIABLE}={}", show.cluster.server_socket());
    show.out.command("export", &[&socket]);

    let printed = run(show, &["token", "generate", "-spiffeID", NODE]).await?;
    let token = printed
        .trim()
        .strip_prefix("Token: ")
        .context("no token was printed")?;
    // Not shown whole, as tokens should not be; this one is good for the one use that follows.
    let start = token.get(..8).unwrap_or_default();
    show.out.output(&format!("Token: {start}…"));
    for name in Name::ALL {
        register(show, name).await?;
    }
    let bundle = run(show, &["bundle", "show"]).await?;
    show.cluster.write("bundle.pem", &bundle)?;
    let first = bundle.lines().next().unwrap_or_default();
    show.out
        .output(&format!("{first}… written for the node agent"));

    let pid = show.cluster.start_agent(address, token).await?;
    let socket = show.cluster.agent_socket();
    let text = format!("pid {pid}, has proved its node, serves workloads on {socket}");
    show.out.fact("node agent", &text);
    let agents = run(show, &["agent", "list"]).await?;
    show_lines(show, &agents, "SPIFFE ID");
    Ok(())
}

/// Creates a workload's entry. All workloads run as the same user, so it is the program's path that tells them apart; a
/// second selector shows that an entry may ask for more.
async fn register(show: &mut Show, name: Name) -> anyhow::Result<()> {
    let path = format!("unix:path:{}", show.cluster.shown(name.as_str()));
    let second = match name {
        Name::Planner | Name::Reviewer => format!("unix:uid:{}", nix::unistd::getuid()),
        Name::Coder | Name::Intruder => format!("unix:gid:{}", nix::unistd::getgid()),
    };
    let (id, ttl) = (name.id(), SHORT_TTL.as_secs().to_string());
    let mut args = vec!["entry", "create", "-spiffeID", &id, "-parentID", NODE];
    args.extend(["-selector", &path, "-selector", &second]);
    if name.is_short_lived() {
        args.extend(["-x509SVIDTTL", &ttl]);
    }
    let printed = run(show, &args).await?;
    show_lines(show, &printed, "Entry ID");
    Ok(())
}

/// Runs and shows a verb of the server's command line; gives what it printed.
async fn run(show: &mut Show, args: &[&str]) -> anyhow::Result<String> {
    show.out.command("countersign-demo server", args);
    let ran = show.cluster.run("server", args).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&ran.stdout), text(&ran.stderr));
    ensure!(
        ran.status.success(),
        "{args:?} ended with {}: {printed}{errors}",
        ran.status
    );
    Ok(printed)
}

/// Shows the lines that begin like this.
fn show_lines(show: &mut Show, printed: &str, start: &str) {
    let lines = printed
        .lines()
        .filter(|line| line.trim_start().starts_with(start));
    lines.for_each(|line| show.out.output(line));
}
