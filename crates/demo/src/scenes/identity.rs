//! Every workload gets its identity, and a process without an entry gets none.

use std::collections::BTreeMap;

use countersign_transport::{Clock as _, SystemClock};

use crate::checks;
use crate::protocol::{Event, Order, Svid};
use crate::scenes::Show;
use crate::script::Name;
use crate::workloads::Workloads;

/// Waits for the SVIDs, asks for one without an entry, and tells the workloads each other's addresses.
pub(crate) async fn identity(
    show: &mut Show,
    workloads: &mut Workloads,
) -> anyhow::Result<Vec<(Name, Svid)>> {
    show.out
        .scene("Each process gets the identity of its entry, by what the kernel says about it");
    let mut joined = Vec::new();
    while joined.len() < Name::ALL.len() {
        let first = |name, event: &Event| match event {
            Event::Joined(svid) => Some((name, svid.clone())),
            _ => None,
        };
        let (name, svid) = workloads.expect(first).await?;
        show.out.joined(&svid, SystemClock.now().as_secs());
        joined.push((name, svid));
    }
    let refused = stranger_is_refused(show).await?;
    connect(workloads).await?;
    show.checks.push(checks::identities(&joined, refused));
    Ok(joined)
}

/// This program under its own name has no entry.
async fn stranger_is_refused(show: &mut Show) -> anyhow::Result<bool> {
    let socket = show.cluster.agent_socket();
    let args = ["api", "fetch", "x509", "-socketPath", &socket];
    show.out.command("countersign-demo agent", &args);
    let ran = show.cluster.run("agent", &args).await?;
    let refused = !ran.status.success() && ran.stdout.is_empty();
    show.out.output(String::from_utf8_lossy(&ran.stderr).trim());
    let text = match refused {
        true => "a stranger: no entry, no identity",
        false => "a stranger got an identity",
    };
    show.out.result(refused, text);
    Ok(refused)
}

async fn connect(workloads: &mut Workloads) -> anyhow::Result<()> {
    let mut addresses = BTreeMap::new();
    for _ in [Name::Planner, Name::Coder, Name::Reviewer] {
        let serving = |name, event: &Event| match event {
            Event::Serving { address } => Some((name, *address)),
            _ => None,
        };
        addresses.extend([workloads.expect(serving).await?]);
    }
    for name in Name::ALL {
        let addresses = addresses.clone();
        workloads.order(name, &Order::Connect { addresses }).await?;
    }
    Ok(())
}
