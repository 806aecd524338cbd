//! Who plays, and the numbers of the show.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The trust domain of the show.
pub(crate) const TRUST_DOMAIN: &str = "ai-agents.org";
/// The name that the join token gives to the node: the parent of all entries.
pub(crate) const NODE: &str = "spiffe://ai-agents.org/node";
/// Set for the processes that end with the show, and not for a person who tries the same program by hand.
pub(crate) const OF_THE_SHOW: &str = "COUNTERSIGN_DEMO";

/// How long the whole show may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(55);
/// The lifetime of the SVIDs that are seen to rotate.
pub(crate) const SHORT_TTL: Duration = Duration::from_secs(20);

/// How many calls the flood has.
pub(crate) const FLOOD: u32 = 100;
/// What the planner hands to the coder for it, in calls.
pub(crate) const FLOOD_GRANT: u16 = 200;
/// `rate` of the rule that the flood runs into: calls a second, and how many at once.
pub(crate) const FLOOD_RATE: u32 = 10;
/// See [`FLOOD_RATE`].
pub(crate) const FLOOD_BURST: u32 = 20;

/// How often a pair of steady calls is made.
pub(crate) const STEADY_EVERY: Duration = Duration::from_millis(100);
/// How many pairs of steady calls are one piece of work.
pub(crate) const STEADY_PAIRS: u32 = 20;

/// The four workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    /// Starts work.
    Planner,
    /// Works on it.
    Coder,
    /// Judges it, and would like to hand it back to the planner.
    Reviewer,
    /// Has an identity, and no business here.
    Intruder,
}

impl Name {
    /// All of them, in the order of their entrance.
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
        format!("spiffe://{TRUST_DOMAIN}/{self}")
    }

    /// The workload of that name.
    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_what_they_print() {
        for name in Name::ALL {
            assert_eq!(Name::find(&name.to_string()), Some(name));
        }
        assert_eq!(Name::find("stranger"), None);
    }
}
