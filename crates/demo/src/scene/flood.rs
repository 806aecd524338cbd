//! One piece of work in which the coder has far too many drafts checked at once.

use std::time::Duration;

use super::{arrival, handling};
use crate::event::{Event, Order};
use crate::paper::Paper;
use crate::script::{FLOOD, FLOOD_BURST, FLOOD_RATE, Name};
use crate::stage::Cast;
use crate::verdict::{self, Check};

/// More than enough for the bucket of the edge to be full again.
const PAID: Duration = Duration::from_millis(200);

/// The flood, and the one call after it.
pub(crate) async fn flood(cast: &mut Cast, paper: &mut Paper) -> anyhow::Result<Check> {
    paper.scene("A flood: the coder gets carried away within one piece of work");
    paper.say(&format!(
        "The rule for these calls says rate = \"{FLOOD_RATE}/s burst {FLOOD_BURST}\"; the coder makes {FLOOD} at once."
    ));
    // An edge has one bucket for all its rules, and the reviews of the scenes before went over this one. Time itself
    // is what pays for them, at 50/s.
    tokio::time::sleep(PAID).await;
    cast.order(Name::Planner, &Order::Flood).await?;
    paper.handling(&handling(cast, Name::Coder, "POST /drafts").await?);
    let over = |_, event: &Event| match event {
        Event::Flooded(flood) => Some(flood.clone()),
        _ => None,
    };
    let flood = cast.expect("the flood to be over", over).await?;
    let mut arrivals = Vec::new();
    for _ in 0..=flood.made {
        arrivals.push(arrival(cast, Name::Reviewer, "POST /checks").await?);
    }
    let check = verdict::limited(&flood, &arrivals);
    let refused = flood.refused.values().sum::<u32>();
    let reasons: Vec<_> = flood.refused.keys().map(String::as_str).collect();
    paper.result(
        check.verdict,
        &format!(
            "{} served, {refused} refused ({}) in {} ms",
            flood.served,
            reasons.join(", "),
            flood.took_ms
        ),
    );
    if let Some(other) = &flood.other {
        paper.say(&format!("Another end: {other}"));
    }
    let after = if flood.served_after_wait {
        "served"
    } else {
        "not served"
    };
    paper.say(&format!(
        "The reviewer named a wait of {} s with each refusal; one more call after that was {after}.",
        flood.wait_ms.div_ceil(1000)
    ));
    Ok(check)
}
