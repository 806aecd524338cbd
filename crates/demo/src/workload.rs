//! A workload: a process of its own that links the library, takes orders on its standard input and reports on its
//! standard output what happens. Its log goes to standard error.

mod agent;
mod coder;
mod intruder;
mod planner;
mod reviewer;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign::Mesh;
use countersign_daemon::cli::Exit;
use countersign_daemon::logs::{self, LogOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::protocol::{Event, Order};
use crate::script::Name;
use agent::Agent;

/// How long a workload waits for the node agent and for its identity.
const JOIN: Duration = Duration::from_secs(30);

/// Runs the workload that the first argument names.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = args.nth(1);
    let name = name.as_ref().and_then(|name| name.to_str());
    match run(name.unwrap_or_default()) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            agent::fault(&error);
            Exit::Failure.into()
        }
    }
}

fn run(name: &str) -> anyhow::Result<()> {
    let known = Name::ALL.into_iter().find(|known| known.as_str() == name);
    let name = known.with_context(|| format!("there is no workload {name}"))?;
    logs::init(&LogOptions::default(), None)?;
    tokio::runtime::Runtime::new()?.block_on(live(name))
}

/// From joining the mesh to the end of the orders.
async fn live(name: Name) -> anyhow::Result<()> {
    let mesh = Mesh::join().wait(JOIN).await.context("joining the mesh")?;
    let agent = Arc::new(Agent::new(name, mesh));
    agent::report(&Event::Joined(agent.svid()?));
    tokio::spawn(report_rotations(Arc::clone(&agent)));
    if name != Name::Intruder {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(Arc::clone(&agent), listener));
        agent::report(&Event::Serving { address });
    }
    follow_orders(&agent).await
}

async fn report_rotations(agent: Arc<Agent>) {
    while agent.mesh.updated().await.is_some() {
        if let Ok(svid) = agent.svid() {
            agent::report(&Event::Rotated(svid));
        }
    }
}

async fn serve(agent: Arc<Agent>, listener: TcpListener) {
    let served = match agent.name {
        // What an agent needs: its router, behind the library's layer.
        Name::Coder => agent
            .mesh
            .serve(listener, coder::router(&agent))
            .await
            .map_err(Into::into),
        Name::Planner => watch::serve(&agent, listener, planner::router()).await,
        Name::Reviewer => watch::serve(&agent, listener, reviewer::router(&agent)).await,
        Name::Intruder => Ok(()),
    };
    if let Err(error) = served {
        agent::fault(&error.context("serving"));
    }
}

async fn follow_orders(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut planner = planner::Planner::default();
    while let Some(line) = lines.next_line().await.context("reading orders")? {
        let order: Order =
            serde_json::from_str(&line).with_context(|| format!("{line:?} is not an order"))?;
        let followed = match (agent.name, order) {
            (_, Order::Connect { addresses }) => agent.connect(&addresses),
            (Name::Planner, order) => planner.follow(agent, order).await,
            (Name::Intruder, Order::Intrude) => intruder::intrude(agent).await,
            (name, order) => bail!("{name} cannot follow {order:?}"),
        };
        if let Err(error) = followed {
            agent::fault(&error);
        }
    }
    Ok(())
}
