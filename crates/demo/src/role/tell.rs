//! A workload's standard output: events, one per line.

use std::io::Write as _;

use crate::event::Event;

/// Writes events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller;

impl Teller {
    /// Tells one event. With nobody left to tell, the workload ends soon: its standard input has ended too.
    pub(super) fn tell(self, event: &Event) {
        match serde_json::to_string(event) {
            Ok(line) => {
                let mut out = std::io::stdout().lock();
                drop(writeln!(out, "{line}").and_then(|()| out.flush()));
            }
            Err(error) => tracing::error!(%error, ?event, "an event could not be written"),
        }
    }
}
