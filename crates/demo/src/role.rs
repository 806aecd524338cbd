//! A workload: a process of its own that links the library, takes orders on its standard input and tells on its
//! standard output what happens. The logs go to standard error.

mod coder;
mod intruder;
mod part;
mod planner;
mod reviewer;
mod serving;
mod tell;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign::{ENDPOINT_VARIABLE, Mesh};
use countersign_daemon::cli::Exit;
use countersign_daemon::logs::{self, LogOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::event::{Event, Order};
use crate::script::Name;
use part::Part;
use tell::Teller;

/// How long a workload waits for the node agent and for its identity.
const JOIN: Duration = Duration::from_secs(30);

/// Runs the workload that the first argument names.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = args.nth(1).and_then(|name| Name::find(name.to_str()?));
    let ended = match name {
        Some(name) => run(name),
        None => Err(anyhow::anyhow!(
            "a role is one of planner, coder, reviewer, intruder"
        )),
    };
    match ended {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the workload ended");
            Teller.tell(&Event::Fault {
                why: format!("{error:#}"),
            });
            Exit::Failure.into()
        }
    }
}

fn run(name: Name) -> anyhow::Result<()> {
    logs::init(&LogOptions::default(), None)?;
    tokio::runtime::Runtime::new()?.block_on(live(name))
}

/// From joining the mesh to the end of the orders.
async fn live(name: Name) -> anyhow::Result<()> {
    let endpoint = std::env::var(ENDPOINT_VARIABLE).context("where the node agent is")?;
    let mesh = Mesh::join().wait(JOIN).await.context("joining the mesh")?;
    let part = Arc::new(Part::new(name, mesh, endpoint));
    part.tell(&Event::Joined(part.svid()?));
    tokio::spawn(tell_rotations(Arc::clone(&part)));
    if name != Name::Intruder {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("opening a port")?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(Arc::clone(&part), listener));
        part.tell(&Event::Serving { address });
    }
    take_orders(&part).await
}

async fn tell_rotations(part: Arc<Part>) {
    while part.mesh().updated().await.is_some() {
        if let Ok(svid) = part.svid() {
            part.tell(&Event::Rotated(svid));
        }
    }
}

async fn serve(part: Arc<Part>, listener: TcpListener) {
    let served = match part.name() {
        Name::Planner => serving::watched(&part, listener, planner::router(&part)).await,
        Name::Reviewer => serving::watched(&part, listener, reviewer::router(&part)).await,
        Name::Coder => {
            let router = coder::router(&part);
            let served = part.mesh().serve(listener, router).await;
            served.map_err(anyhow::Error::from)
        }
        Name::Intruder => Ok(()),
    };
    if let Err(error) = served {
        part.fault(&error.context("serving"));
    }
}

async fn take_orders(part: &Arc<Part>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut planner = planner::Planner::default();
    while let Some(line) = lines.next_line().await.context("reading orders")? {
        let order: Order =
            serde_json::from_str(&line).with_context(|| format!("{line:?} is not an order"))?;
        let followed = match (part.name(), order) {
            (_, Order::Know { places }) => part.know(&places),
            (Name::Planner, order) => planner.follow(part, order).await,
            (Name::Intruder, Order::Intrude) => intruder::intrude(part).await,
            (name, order) => bail!("{name} cannot carry out {order:?}"),
        };
        if let Err(error) = followed {
            part.fault(&error);
        }
    }
    Ok(())
}
