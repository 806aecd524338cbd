//! Who takes part, and the numbers of the show.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The node's ID, which the join token gives it: the parent of all entries.
pub(crate) const NODE: &str = "spiffe://ai-agents.org/node";
/// Set for the processes that end with the show, and not for a person who tries the same program by hand.
pub(crate) const PART_OF_SHOW: &str = "COUNTERSIGN_DEMO";

/// How long the whole show may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(55);
/// The lifetime of the SVIDs that are seen to rotate.
pub(crate) const SHORT_TTL: Duration = Duration::from_secs(20);
/// How often the planner makes a pair of steady calls.
pub(crate) const STEADY_EVERY: Duration = Duration::from_millis(100);

/// How many calls the flood has.
pub(crate) const FLOOD: u32 = 100;
/// How many calls the planner grants the coder for it.
pub(crate) const FLOOD_GRANT: u16 = 200;
/// The rate of the rule that the flood runs into, in calls per second; `cluster/mesh.hcl` has it.
pub(crate) const FLOOD_RATE: u32 = 10;
/// The burst of that rule.
pub(crate) const FLOOD_BURST: u32 = 20;

/// The four workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    /// Starts work.
    Planner,
    /// Does it, and has it reviewed.
    Coder,
    /// Reviews it, and wants to hand it back to the planner.
    Reviewer,
    /// Has an identity, but no rule of the policy names it.
    Intruder,
}

impl Name {
    pub(crate) const ALL: [Self; 4] = [Self::Planner, Self::Coder, Self::Reviewer, Self::Intruder];

    /// The last segment of the SPIFFE ID, and the program's file name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Coder => "coder",
            Self::Reviewer => "reviewer",
            Self::Intruder => "intruder",
        }
    }

    /// The SPIFFE ID.
    pub(crate) fn id(self) -> String {
        format!("spiffe://ai-agents.org/{self}")
    }

    /// Whether its SVIDs live for [`SHORT_TTL`] only.
    pub(crate) const fn is_short_lived(self) -> bool {
        matches!(self, Self::Planner | Self::Coder)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
