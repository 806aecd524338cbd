//! Every workload gets its identity, and a process without an entry gets none.

use std::collections::BTreeMap;

use countersign_transport::{Clock as _, SystemClock};

use crate::event::{Event, Order, Svid};
use crate::paper::Paper;
use crate::script::Name;
use crate::stage::{Cast, Stage};
use crate::verdict::{self, Check, Verdict};

/// Waits for the SVIDs, tries it as a stranger, and introduces the workloads to each other.
pub(crate) async fn identity(
    stage: &Stage,
    cast: &mut Cast,
    paper: &mut Paper,
) -> anyhow::Result<(Vec<(Name, Svid)>, Check)> {
    paper
        .scene("Each process gets the identity that its entry says, by what the kernel says of it");
    let mut joined = Vec::new();
    while joined.len() < Name::ALL.len() {
        let (name, svid) = cast
            .expect("a workload to get its SVID", first_svid)
            .await?;
        paper.joined(&svid, SystemClock.now().as_secs());
        joined.push((name, svid));
    }
    let refused = stranger_is_refused(stage, paper).await?;
    introduce(cast).await?;
    let check = verdict::identities(&joined, refused);
    Ok((joined, check))
}

fn first_svid(name: Name, event: &Event) -> Option<(Name, Svid)> {
    match event {
        Event::Joined(svid) => Some((name, svid.clone())),
        _ => None,
    }
}

/// This program under its own name has no entry.
async fn stranger_is_refused(stage: &Stage, paper: &mut Paper) -> anyhow::Result<bool> {
    let socket = stage.agent_socket().display().to_string();
    let args = ["api", "fetch", "x509", "-socketPath", &socket];
    paper.command("countersign-demo agent", &args);
    let ran = stage.agent_cli(&args).await?;
    let refused = !ran.status.success() && !ran.out.contains("SPIFFE ID");
    let said = ran
        .err
        .lines()
        .chain(ran.out.lines())
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let verdict = if refused {
        Verdict::Ok
    } else {
        Verdict::Failed
    };
    paper.long_output(said);
    paper.result(
        verdict,
        if refused {
            "a stranger: no entry, no identity"
        } else {
            "a stranger got an identity"
        },
    );
    Ok(refused)
}

/// Tells each workload where the others serve.
async fn introduce(cast: &mut Cast) -> anyhow::Result<()> {
    let mut places = BTreeMap::new();
    for name in [Name::Planner, Name::Coder, Name::Reviewer] {
        let serving = |who, event: &Event| match event {
            Event::Serving { address } if who == name => Some(*address),
            _ => None,
        };
        places.insert(
            name,
            cast.expect(&format!("{name} to serve"), serving).await?,
        );
    }
    for name in Name::ALL {
        cast.order(
            name,
            &Order::Know {
                places: places.clone(),
            },
        )
        .await?;
    }
    Ok(())
}
