//! A stream of responses that costs one subscription, however slowly it is read.
//!
//! Each response is made from the newest snapshot when the connection has room for it; those in between are never made.

use std::pin::Pin;

use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::caller::Admitted;
use crate::sync::{Snapshot, Subscription};

/// A response stream for tonic.
pub(super) type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What a snapshot means for one stream.
pub(super) enum Next<M> {
    /// Send this.
    Send(M),
    /// Nothing to send yet.
    Wait,
    /// The stream is over.
    End(Status),
}

/// Responses made by `answer`: at once, and after each change that concerns the subscriber, even if equal to the last one.
pub(super) fn answers<M, F>(admitted: Admitted, stop: CancellationToken, answer: F) -> Answers<M>
where
    M: Clone + PartialEq + Send + Sync + 'static,
    F: Fn(&Snapshot, &Subscription) -> Next<M> + Send + Sync + 'static,
{
    stream(admitted, stop, false, answer)
}

/// Like [`answers`], without responses equal to the last one.
pub(super) fn distinct_answers<M, F>(
    admitted: Admitted,
    stop: CancellationToken,
    answer: F,
) -> Answers<M>
where
    M: Clone + PartialEq + Send + Sync + 'static,
    F: Fn(&Snapshot, &Subscription) -> Next<M> + Send + Sync + 'static,
{
    stream(admitted, stop, true, answer)
}

fn stream<M, F>(
    admitted: Admitted,
    stop: CancellationToken,
    skips_equal: bool,
    answer: F,
) -> Answers<M>
where
    M: Clone + PartialEq + Send + Sync + 'static,
    F: Fn(&Snapshot, &Subscription) -> Next<M> + Send + Sync + 'static,
{
    let state = AnswerState {
        admitted,
        stop,
        skips_equal,
        answer,
        last: None,
        phase: AnswerPhase::First,
    };
    Box::pin(futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

struct AnswerState<M, F> {
    admitted: Admitted,
    stop: CancellationToken,
    skips_equal: bool,
    answer: F,
    last: Option<M>,
    phase: AnswerPhase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerPhase {
    First,
    Running,
    Over,
}

impl<M, F> AnswerState<M, F>
where
    M: Clone + PartialEq,
    F: Fn(&Snapshot, &Subscription) -> Next<M>,
{
    async fn next(&mut self) -> Option<Result<M, Status>> {
        loop {
            match self.phase {
                AnswerPhase::Over => return None,
                AnswerPhase::First => self.phase = AnswerPhase::Running,
                AnswerPhase::Running => {
                    let stopped = tokio::select! {
                        biased;
                        () = self.stop.cancelled() => true,
                        () = self.admitted.subscription.changed() => false,
                    };
                    if stopped {
                        self.phase = AnswerPhase::Over;
                        // SPIFFE clients give up for good after CANCELLED, but retry after UNAVAILABLE.
                        return Some(Err(Status::unavailable("the node agent is stopping")));
                    }
                }
            }
            let Ok(snapshot) = self.admitted.snapshot() else {
                continue;
            };
            match (self.answer)(&snapshot, &self.admitted.subscription) {
                Next::Wait => {}
                Next::End(status) => {
                    self.phase = AnswerPhase::Over;
                    return Some(Err(status));
                }
                Next::Send(message) if self.skips_equal => {
                    if self.last.as_ref() != Some(&message) {
                        self.last = Some(message.clone());
                        return Some(Ok(message));
                    }
                }
                Next::Send(message) => return Some(Ok(message)),
            }
        }
    }
}
