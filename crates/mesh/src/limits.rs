//! Every bound of the mesh by name, and the counters that enforce them.
//!
//! `docs/call-chains.md`, section 5. Bounds of the encodings stand in [`chain`](crate::chain).

mod account;
mod peer;
mod quota;
pub mod rate;
mod replay;
mod sharded;

use std::time::Duration;

pub(crate) use account::{AccountError, Accounts, ChainKey};
pub(crate) use peer::{PeerState, Peers, Presented};
pub(crate) use quota::{Held, Quota};
pub use rate::{InvalidRate, Rate};
pub(crate) use replay::Seen;
pub(crate) use sharded::{Part, Sharded, lock};

/// Hop limit where no rule says otherwise.
pub(crate) const DEFAULT_MAX_HOPS: u8 = 5;
/// A chain's deadline where the originate rule says nothing.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);
/// A chain's budget where the originate rule says nothing, in calls.
pub(crate) const DEFAULT_BUDGET: u16 = 256;
/// Calls on one edge within one chain where the rule says nothing.
pub(crate) const DEFAULT_CALLS_PER_CHAIN: u32 = 64;
/// Rate of an edge where no rule says otherwise.
pub(crate) const DEFAULT_RATE: Rate = Rate::per_second(50, 100);
/// How fast one peer's requests may fail in steps 3 to 9 before it is refused unread.
pub(crate) const FAILURE_RATE: Rate = Rate::per_second(20, 100);

/// How far ahead of this clock a link may have been made, in seconds.
pub(crate) const MAX_AHEAD: u64 = 30;
/// How old the last link may be, in seconds.
pub(crate) const MAX_AGE: u64 = 60;
/// How much earlier than the link before a link may have been made, in seconds.
pub(crate) const MAX_DISORDER: u64 = 60;
/// How far a link may lie outside the validity of its signer's certificate, in seconds.
pub(crate) const CERTIFICATE_SLACK: u64 = 30;

/// How many entries each bounded map may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// IDs of calls that were seen.
    pub(crate) calls: usize,
    /// Counters per link, per chain, and per edge within a chain.
    pub(crate) counters: usize,
    /// Verified prefixes of chains.
    pub(crate) prefixes: usize,
    /// Verified leaf certificates.
    pub(crate) leaves: usize,
    /// Direct peers about which anything is known.
    pub(crate) peers: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            calls: 1_000_000,
            counters: 1_000_000,
            prefixes: 65_536,
            leaves: 4_096,
            peers: 65_536,
        }
    }
}
