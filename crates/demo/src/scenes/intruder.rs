//! The intruder has an identity, and no rule that names it.

use super::called;
use crate::checks;
use crate::protocol::Order;
use crate::scenes::Show;
use crate::script::Name;
use crate::workloads::Workloads;

/// It tries by the library, then by hand.
pub(crate) async fn intruder(show: &mut Show, workloads: &mut Workloads) -> anyhow::Result<()> {
    show.out
        .scene("An intruder with a valid identity, but no right to anything");
    workloads.order(Name::Intruder, &Order::Intrude).await?;
    let by_library = called(workloads, Name::Intruder, "POST /reviews").await?;
    show.out.called(&by_library);
    let by_hand = called(workloads, Name::Intruder, "POST /reviews").await?;
    show.out.called(&by_hand);
    show.checks.extend([
        checks::intruder_by_library(&by_library),
        checks::intruder_by_hand(&by_hand),
    ]);
    Ok(())
}
