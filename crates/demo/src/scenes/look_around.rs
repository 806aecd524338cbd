//! Everything is left running, for a person to look around.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::cluster::SERVER_SOCKET_VARIABLE;
use crate::protocol::{Client, Event, Order};
use crate::scenes::Show;
use crate::script::Name;
use crate::workloads::Workloads;

/// Says how to look around, and leaves everything running until `stop`. Each line that is entered starts a task.
pub(crate) async fn look_around(
    show: &mut Show,
    mut workloads: Workloads,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    guide(show);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut input_is_open = true;
    let task = Order::Task {
        hand_back: Client::Library,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            line = lines.next_line(), if input_is_open => match line {
                Ok(Some(_)) => workloads.order(Name::Planner, &task).await?,
                Ok(None) | Err(_) => input_is_open = false,
            },
            next = workloads.next() => match next?.1 {
                Event::Handling(call) => show.out.handling(&call),
                Event::Called(call) => show.out.called(&call),
                Event::Fault { error } => show.out.explain(&error),
                _ => {}
            },
        }
    }
}

fn guide(show: &mut Show) {
    let (cluster, out) = (&show.cluster, &mut show.out);
    let (program, planner) = (cluster.program(), cluster.shown("planner"));
    let (server, agent) = (cluster.server_socket(), cluster.agent_socket());
    out.scene("Everything is left running: look around");
    out.fact("server", &format!("{server} (for administrators)"));
    out.fact("node agent", &format!("{agent} (for workloads)"));
    let policy = cluster.shown("mesh.hcl");
    out.fact(
        "policy",
        &format!("{policy} (edit it: workloads take it within seconds)"),
    );
    out.fact("logs", &cluster.shown("*.log"));
    out.explain("In another terminal:");
    for command in [
        format!("export {SERVER_SOCKET_VARIABLE}={server}"),
        format!("{program} server entry show"),
        format!("{program} server agent list"),
        format!("{program} server bundle show"),
        format!("{planner} agent api fetch x509 -socketPath {agent}"),
    ] {
        out.line(&format!("   $ {command}"));
    }
    out.explain(
        "Here: Enter sends another task round, Ctrl-C ends everything and removes the folder.",
    );
}
