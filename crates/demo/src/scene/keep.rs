//! Everything stays, for somebody who wants to look around.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::event::{Ending, Event, Order};
use crate::paper::Paper;
use crate::script::Name;
use crate::stage::{Cast, SERVER_SOCKET_VARIABLE, Stage};

/// Says how to look around, and leaves everything running until `stop`. Each line that is entered starts a task.
pub(crate) async fn keep(
    stage: &Stage,
    mut cast: Cast,
    paper: &mut Paper,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    guide(stage, paper);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut input = Input::Open;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            line = lines.next_line(), if input == Input::Open => match line {
                Ok(Some(_)) => cast.order(Name::Planner, &Order::Task { end: Ending::ByLibrary }).await?,
                Ok(None) | Err(_) => input = Input::Over,
            },
            heard = cast.next() => match heard?.1 {
                Event::Handling(call) => paper.handling(&call),
                Event::Made(call) => paper.made(&call),
                Event::Fault { why } => paper.say(&why),
                _ => {}
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Over,
}

fn guide(stage: &Stage, paper: &mut Paper) {
    let program = stage.program().display();
    let path = |name: &str| stage.path(name).display().to_string();
    let socket = stage.agent_socket().display().to_string();
    paper.scene("Everything stays: look around");
    paper.fact(
        "server",
        &format!("{} (for admins)", stage.server_socket().display()),
    );
    paper.fact("node agent", &format!("{socket} (for workloads)"));
    paper.fact(
        "policy",
        &format!(
            "{} (edit it: workloads take it within seconds)",
            path("mesh.hcl")
        ),
    );
    paper.fact("logs", &path("*.log"));
    paper.say("In another terminal:");
    for line in [
        format!(
            "export {SERVER_SOCKET_VARIABLE}={}",
            stage.server_socket().display()
        ),
        format!("{program} server entry show"),
        format!("{program} server agent list"),
        format!("{program} server bundle show"),
        format!(
            "{} agent api fetch x509 -socketPath {socket}",
            path("planner")
        ),
    ] {
        paper.line(&format!("   $ {line}"));
    }
    paper.say(
        "Here: Enter sends another task round, Ctrl-C ends everything and removes the folder.",
    );
}
