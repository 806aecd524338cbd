//! A task goes round, and its chain stops it: first in the reviewer's library, then at the planner.

use super::{arrival, called, handling};
use crate::checks;
use crate::protocol::{Client, Order, Outcome, RefusedBy};
use crate::scenes::Show;
use crate::script::Name;
use crate::workloads::Workloads;

/// Both tasks.
pub(crate) async fn feedback_loop(
    show: &mut Show,
    workloads: &mut Workloads,
) -> anyhow::Result<()> {
    show.out
        .scene("A task goes round: the reviewer's own library stops the loop");
    show.out.explain(
        "Policy allows planner → coder, coder → reviewer and reviewer → planner. Each call carries the signed chain of \
         calls that led to it; a callee verifies every link.",
    );
    let hand_back = Client::Library;
    workloads
        .order(Name::Planner, &Order::Task { hand_back })
        .await?;
    let at_coder = handling(workloads, Name::Coder, "POST /tasks").await?;
    show.out.handling(&at_coder);
    let at_reviewer = handling(workloads, Name::Reviewer, "POST /reviews").await?;
    show.out.handling(&at_reviewer);
    let by_library = called(workloads, Name::Reviewer, "POST /findings").await?;
    show.out.called(&by_library);
    if let Outcome::Answered
    | Outcome::Refused {
        by: RefusedBy::Callee,
        ..
    } = by_library.outcome
    {
        // It was sent, and should not have been. Its arrival must not be taken for that of the next call.
        arrival(workloads, Name::Planner, "POST /findings").await?;
    }

    show.out
        .scene("The reviewer sends it all the same, by hand: the planner refuses");
    show.out.explain(
        "The call skips the library: it is signed with the reviewer's real key, over a chain taken off the wire, and sent \
         over a connection of its own (⇒).",
    );
    let hand_back = Client::HandMade;
    workloads
        .order(Name::Planner, &Order::Task { hand_back })
        .await?;
    for (name, action) in [
        (Name::Coder, "POST /tasks"),
        (Name::Reviewer, "POST /reviews"),
    ] {
        let handling = handling(workloads, name, action).await?;
        show.out.handling(&handling);
    }
    let by_hand = called(workloads, Name::Reviewer, "POST /findings").await?;
    show.out.called(&by_hand);
    let arrived = arrival(workloads, Name::Planner, "POST /findings").await?;
    let before = match arrived.number {
        1 => "of the first loop, nothing was sent",
        _ => "something was sent before it",
    };
    let number = arrived.number;
    show.out.explain(&format!(
        "It is request number {number} that ever reached the planner: {before}."
    ));
    show.checks.extend([
        checks::chain(&at_coder, &at_reviewer),
        checks::loop_by_library(&by_library, &arrived),
        checks::loop_by_hand(&by_hand, &arrived),
    ]);
    Ok(())
}
