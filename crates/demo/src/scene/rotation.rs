//! SVIDs rotate while calls go on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use countersign_identity::UnixTime;
use countersign_transport::{Clock as _, SystemClock};

use crate::event::{Event, Order, Steady, Svid};
use crate::paper::{Paper, clock_time};
use crate::script::{Name, SHORT_TTL, STEADY_EVERY};
use crate::stage::Cast;
use crate::verdict::{self, Check, Rotations};

/// From here on the planner calls the coder steadily.
pub(crate) async fn start_steady_calls(cast: &mut Cast, paper: &mut Paper) -> anyhow::Result<()> {
    let pairs = Duration::from_secs(1).as_millis() / STEADY_EVERY.as_millis();
    paper.say(&format!(
        "From now on the planner also calls the coder {} times a second, half of them on a new connection.",
        2 * pairs
    ));
    cast.order(Name::Planner, &Order::Steady).await
}

/// Waits until the first SVIDs of planner and coder have been replaced and have expired, and counts.
pub(crate) async fn rotation(
    cast: &mut Cast,
    paper: &mut Paper,
    joined: &[(Name, Svid)],
) -> anyhow::Result<Check> {
    paper.scene("SVIDs rotate under load, and no call is dropped");
    let short = joined.iter().filter(|(name, _)| name.is_short_lived());
    let mut svids: BTreeMap<_, _> = short
        .map(|(name, svid)| (*name, vec![svid.clone()]))
        .collect();
    let end = svids
        .values()
        .flatten()
        .map(|svid| svid.not_after)
        .max()
        .unwrap_or_default();
    paper.say(&format!(
        "Planner and coder have SVIDs of {} s; the first ones end at {}. Until then, and beyond:",
        SHORT_TTL.as_secs(),
        clock_time(end)
    ));
    while UnixTime::from_secs(end) >= SystemClock.now() || svids.values().any(|held| held.len() < 2)
    {
        let next = cast.expect("an SVID to be rotated", rotated);
        let left = UnixTime::from_secs(end + 1)
            .since(SystemClock.now())
            .max(Duration::from_millis(100));
        // The end of the first SVIDs is a time, not an event; until it, rotations are shown as they come.
        let Ok(next) = tokio::time::timeout(left, next).await else {
            continue;
        };
        let (name, svid) = next?;
        let held = svids
            .get_mut(&name)
            .with_context(|| format!("{name} has a long-lived SVID, and rotated it"))?;
        if let Some(before) = held.last() {
            paper.rotated(name, before, &svid);
        }
        held.push(svid);
    }
    cast.order(Name::Planner, &Order::Rest).await?;
    let steady = cast.expect("the steady calls to end", rested).await?;
    let mut of = |name| svids.remove(&name).unwrap_or_default();
    let rotations = Rotations {
        planner: of(Name::Planner),
        coder: of(Name::Coder),
    };
    let check = verdict::rotated(&rotations, &steady);
    show(paper, &check, &steady);
    Ok(check)
}

fn show(paper: &mut Paper, check: &Check, steady: &Steady) {
    let (kept, fresh) = (steady.kept, steady.fresh);
    paper.result(
        check.verdict,
        &format!(
            "{} calls on a kept client, {} failed; {} calls on new connections, {} failed",
            kept.made, kept.failed, fresh.made, fresh.failed
        ),
    );
    if let Some(why) = &steady.first_failure {
        paper.say(&format!("The first failure: {why}"));
    }
    paper.say(&format!(
        "The coder was shown {} certificates of the planner, the planner {} of the coder.",
        steady.caller_serials.len(),
        steady.callee_ends.len()
    ));
}

fn rotated(name: Name, event: &Event) -> Option<(Name, Svid)> {
    match event {
        Event::Rotated(svid) => Some((name, svid.clone())),
        _ => None,
    }
}

fn rested(_: Name, event: &Event) -> Option<Steady> {
    match event {
        Event::Rested(steady) => Some(steady.clone()),
        _ => None,
    }
}
