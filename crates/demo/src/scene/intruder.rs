//! The intruder has an identity, and no rule that names it.

use super::made;
use crate::event::Order;
use crate::paper::Paper;
use crate::script::Name;
use crate::stage::Cast;
use crate::verdict::{self, Check};

/// It tries both ways.
pub(crate) async fn intruder(cast: &mut Cast, paper: &mut Paper) -> anyhow::Result<Vec<Check>> {
    paper.scene("An intruder with a valid identity, but no right to anything");
    cast.order(Name::Intruder, &Order::Intrude).await?;
    let by_library = made(cast, Name::Intruder, "POST /reviews").await?;
    paper.made(&by_library);
    let by_hand = made(cast, Name::Intruder, "POST /reviews").await?;
    paper.made(&by_hand);
    Ok(vec![
        verdict::kept_in(&by_library),
        verdict::kept_out(&by_hand),
    ])
}
