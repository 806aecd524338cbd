//! One piece of work in which the coder has far too many drafts checked at once.

use std::time::Duration;

use super::handling;
use crate::checks;
use crate::protocol::{Event, Order};
use crate::scenes::Show;
use crate::script::{FLOOD, FLOOD_BURST, FLOOD_RATE, Name};
use crate::workloads::Workloads;

/// More than enough for the bucket of the edge to be full again.
const REFILL: Duration = Duration::from_millis(200);

/// The flood, and the one call after it.
pub(crate) async fn flood(show: &mut Show, workloads: &mut Workloads) -> anyhow::Result<()> {
    show.out
        .scene("A flood: the coder gets carried away within one piece of work");
    show.out.explain(&format!(
        "The rule for these calls says rate = \"{FLOOD_RATE}/s burst {FLOOD_BURST}\"; the coder makes {FLOOD} at once."
    ));
    // An edge has one bucket for all its rules, and the reviews of the scenes before went over this edge. Its default
    // rate of 50/s refills it; that takes time and sends no event.
    tokio::time::sleep(REFILL).await;
    workloads.order(Name::Planner, &Order::Flood).await?;
    let handling = handling(workloads, Name::Coder, "POST /drafts").await?;
    show.out.handling(&handling);
    let over = |_, event: &Event| match event {
        Event::Flooded(flood) => Some(flood.clone()),
        _ => None,
    };
    let flood = workloads.expect(over).await?;
    let check = checks::flood(&flood);
    let refused: u32 = flood.refused.values().sum();
    let reasons: Vec<_> = flood.refused.keys().map(String::as_str).collect();
    let (served, reasons, took) = (flood.served, reasons.join(", "), flood.took_ms);
    let text = format!("{served} served, {refused} refused ({reasons}) in {took} ms");
    show.out.result(check.passed, &text);
    if let Some(other) = &flood.other {
        show.out.explain(&format!("Another outcome: {other}"));
    }
    let after = if flood.served_after_wait {
        "served"
    } else {
        "not served"
    };
    show.out.explain(&format!(
        "The reviewer named a wait of {} s with each refusal; one more call after that was {after}.",
        flood.wait_ms.div_ceil(1000)
    ));
    show.checks.push(check);
    Ok(())
}
