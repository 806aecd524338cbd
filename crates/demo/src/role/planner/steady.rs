//! Steady calls to the coder, in pairs: one by a client that keeps its connection, one over a new connection.

use std::sync::Arc;

use countersign::{CalleeClient, Chain};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::event::{Outcome, Pong, Steady, Tally};
use crate::role::part::{Part, outcome, post};
use crate::script::{Name, STEADY_EVERY, STEADY_PAIRS};

/// Calls that go on until they are stopped.
#[derive(Debug)]
pub(super) struct Steadily {
    stop: CancellationToken,
    calling: JoinHandle<anyhow::Result<Steady>>,
}

impl Steadily {
    pub(super) fn start(part: Arc<Part>) -> Self {
        let stop = CancellationToken::new();
        let calling = tokio::spawn(call(part, stop.clone()));
        Self { stop, calling }
    }

    /// Stops after the pair that is under way.
    pub(super) async fn stop(self) -> anyhow::Result<Steady> {
        self.stop.cancel();
        self.calling.await?
    }
}

async fn call(part: Arc<Part>, stop: CancellationToken) -> anyhow::Result<Steady> {
    let mut steady = Steady::default();
    let mut ticks = tokio::time::interval(STEADY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let kept = part.client(Name::Coder)?;
    loop {
        let chain = Chain::start(part.mesh())?;
        for _ in 0..STEADY_PAIRS {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                return Ok(steady);
            }
            let (called, pong) = chain.scope(ping(kept)).await;
            steady.note(called, pong, |steady| &mut steady.kept);
            let fresh = part.fresh_client(Name::Coder)?;
            let (called, pong) = chain.scope(ping(&fresh)).await;
            steady.note(called, pong, |steady| &mut steady.fresh);
        }
    }
}

async fn ping(coder: &CalleeClient) -> (Outcome, Option<Pong>) {
    let result = post(coder, "/ping", bytes::Bytes::new()).await;
    let pong = result
        .as_ref()
        .ok()
        .and_then(|body| serde_json::from_slice(body).ok());
    (outcome(&result), pong)
}

impl Steady {
    fn note(
        &mut self,
        outcome: Outcome,
        pong: Option<Pong>,
        tally: impl FnOnce(&mut Self) -> &mut Tally,
    ) {
        let failure = match (outcome, &pong) {
            (Outcome::Answered, Some(_)) => None,
            (Outcome::Answered, None) => Some("the answer made no sense".to_owned()),
            (Outcome::Refused { reason, .. }, _) => Some(format!("refused: {reason}")),
            (Outcome::Failed { why }, _) => Some(why),
        };
        let tally = tally(self);
        tally.made += 1;
        tally.failed += u32::from(failure.is_some());
        if self.first_failure.is_none() {
            self.first_failure = failure;
        }
        if let Some(pong) = pong {
            append_new(&mut self.caller_serials, pong.caller_serial);
            append_new(&mut self.callee_ends, pong.callee_end);
        }
    }
}

fn append_new<T: PartialEq>(seen: &mut Vec<T>, item: T) {
    if !seen.contains(&item) {
        seen.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(serial: &str, end: u64) -> Pong {
        Pong {
            caller_serial: serial.into(),
            callee_end: end,
        }
    }

    #[test]
    fn calls_are_counted_by_kind_and_certificates_listed_once() {
        let mut steady = Steady::default();
        steady.note(Outcome::Answered, Some(pong("1", 10)), |s| &mut s.kept);
        steady.note(Outcome::Answered, Some(pong("1", 10)), |s| &mut s.fresh);
        steady.note(Outcome::Answered, Some(pong("2", 10)), |s| &mut s.fresh);
        assert_eq!(
            (steady.kept, steady.fresh),
            (Tally { made: 1, failed: 0 }, Tally { made: 2, failed: 0 })
        );
        assert_eq!(
            (steady.caller_serials, steady.callee_ends),
            (vec!["1".into(), "2".into()], vec![10])
        );
    }

    #[test]
    fn the_first_failure_is_kept_and_an_answer_without_sense_is_one() {
        let mut steady = Steady::default();
        steady.note(Outcome::Failed { why: "gone".into() }, None, |s| {
            &mut s.kept
        });
        steady.note(Outcome::Answered, None, |s| &mut s.kept);
        assert_eq!(steady.kept, Tally { made: 2, failed: 2 });
        assert_eq!(steady.first_failure.as_deref(), Some("gone"));
    }
}
