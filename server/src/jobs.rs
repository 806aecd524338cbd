//! Background jobs that remove what has expired: entries and join tokens (`sweep`), node agents (`prune`).
//!
//! Each is one task that the daemon starts and stops. A run that fails is logged and tried again at the next.

mod prune;
pub(crate) mod sweep;

pub(crate) use prune::{PruneNodes, Pruner};
