//! SVIDs rotate while calls go on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use countersign_identity::UnixTime;
use countersign_transport::{Clock as _, SystemClock};

use crate::checks;
use crate::protocol::{Event, Order, Svid};
use crate::render::clock_time;
use crate::scenes::Show;
use crate::script::{Name, SHORT_TTL, STEADY_EVERY};
use crate::workloads::Workloads;

/// From here on the planner calls the coder steadily.
pub(crate) async fn start_steady_calls(
    show: &mut Show,
    workloads: &mut Workloads,
) -> anyhow::Result<()> {
    let calls = 2 * Duration::from_secs(1).as_millis() / STEADY_EVERY.as_millis();
    show.out.explain(&format!(
        "From now on the planner also calls the coder {calls} times a second, half of them on a new connection."
    ));
    workloads.order(Name::Planner, &Order::StartCalls).await
}

/// Waits until the first SVIDs of planner and coder have been replaced and have expired. A call on a new connection after
/// that can only succeed with the new ones.
pub(crate) async fn rotation(
    show: &mut Show,
    workloads: &mut Workloads,
    joined: &[(Name, Svid)],
) -> anyhow::Result<()> {
    show.out
        .scene("SVIDs rotate under load, and no call is dropped");
    let short_lived = joined.iter().filter(|(name, _)| name.is_short_lived());
    let mut current: BTreeMap<_, _> = short_lived
        .map(|(name, svid)| (*name, (svid.clone(), 0)))
        .collect();
    let end = current.values().map(|(svid, _)| svid.not_after).max();
    let end = end.unwrap_or_default();
    show.out.explain(&format!(
        "Planner and coder have SVIDs of {} s; the first ones end at {}. Until then, and beyond:",
        SHORT_TTL.as_secs(),
        clock_time(end)
    ));
    let end = UnixTime::from_secs(end + 1);
    while SystemClock.now() < end || current.values().any(|(_, rotations)| *rotations == 0) {
        let rotated = |name, event: &Event| match event {
            Event::Rotated(svid) => Some((name, svid.clone())),
            _ => None,
        };
        let left = end.since(SystemClock.now()).max(Duration::from_millis(100));
        let Ok(next) = tokio::time::timeout(left, workloads.expect(rotated)).await else {
            continue;
        };
        let (name, svid) = next?;
        let (before, rotations) = current
            .get_mut(&name)
            .context("a long-lived SVID was rotated")?;
        show.out.rotated(name, before, &svid);
        *before = svid;
        *rotations += 1;
    }
    workloads.order(Name::Planner, &Order::StopCalls).await?;
    let stopped = |_, event: &Event| match event {
        Event::CallsStopped(steady) => Some(steady.clone()),
        _ => None,
    };
    let steady = workloads.expect(stopped).await?;
    let rotations = |name| current.get(&name).map_or(0, |(_, rotations)| *rotations);
    let check = checks::rotation(rotations(Name::Planner), rotations(Name::Coder), &steady);
    let (kept, fresh, failed) = (steady.kept, steady.fresh, steady.failed);
    let text =
        format!("{kept} calls on one connection and {fresh} on a new one each, {failed} failed");
    show.out.result(check.passed, &text);
    if let Some(error) = &steady.first_failure {
        show.out.explain(&format!("The first failure: {error}"));
    }
    show.checks.push(check);
    Ok(())
}
