//! A task goes round, and its chain stops it: first in the reviewer's library, then at the planner.

use super::{arrival, handling, made};
use crate::event::{Ending, Order};
use crate::paper::Paper;
use crate::script::Name;
use crate::stage::Cast;
use crate::verdict::{self, Check};

/// Both tasks.
pub(crate) async fn task(cast: &mut Cast, paper: &mut Paper) -> anyhow::Result<Vec<Check>> {
    paper.scene("A task goes round: the reviewer's own library stops the loop");
    paper.say(
        "Policy allows planner → coder, coder → reviewer and reviewer → planner. Each call carries the signed chain of \
         calls that led to it; a callee verifies every link.",
    );
    cast.order(
        Name::Planner,
        &Order::Task {
            end: Ending::ByLibrary,
        },
    )
    .await?;
    let at_coder = handling(cast, Name::Coder, "POST /tasks").await?;
    paper.handling(&at_coder);
    let at_reviewer = handling(cast, Name::Reviewer, "POST /reviews").await?;
    paper.handling(&at_reviewer);
    let by_library = made(cast, Name::Reviewer, "POST /findings").await?;
    paper.made(&by_library);
    if verdict::reached_callee(&by_library) {
        // Not as it should be; its arrival must not be taken for that of the next call.
        arrival(cast, Name::Planner, "POST /findings").await?;
    }

    paper.scene("The reviewer sends it all the same, by hand: the planner refuses");
    paper.say(
        "The call skips the library: it is signed with the reviewer's real key, over a chain taken off the wire, and sent \
         over a connection of its own (⇒).",
    );
    cast.order(
        Name::Planner,
        &Order::Task {
            end: Ending::ByHand,
        },
    )
    .await?;
    paper.handling(&handling(cast, Name::Coder, "POST /tasks").await?);
    paper.handling(&handling(cast, Name::Reviewer, "POST /reviews").await?);
    let by_hand = made(cast, Name::Reviewer, "POST /findings").await?;
    paper.made(&by_hand);
    let arrived = arrival(cast, Name::Planner, "POST /findings").await?;
    let before = match arrived.number {
        1 => "of the first loop, nothing was sent",
        _ => "something was sent before it",
    };
    paper.say(&format!(
        "It is request number {} that ever reached the planner: {before}.",
        arrived.number
    ));
    Ok(vec![
        verdict::carried(&at_coder, &at_reviewer),
        verdict::stopped_by_library(&by_library, &arrived),
        verdict::stopped_by_callee(&by_hand, &arrived),
    ])
}
