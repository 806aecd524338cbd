//! What a person would want in the log, as values: for programs that have no tracing subscriber.
//!
//! [`EventLog`] is the writing half, one per mesh; [`Events`] reads it. Everything here is also logged by `tracing`.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_mesh::Reason;
use futures_util::Stream;
use tokio::sync::watch;

use crate::error::PolicyFileError;
use crate::svid::Svid;

/// How many events are kept for readers that have not taken them yet.
pub(crate) const KEPT: usize = 256;

/// Something that happened to a [`Mesh`](crate::Mesh). Displays as a sentence for a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Joining waits for something, or an identity that was lost is waited for.
    Waiting {
        /// For what, and what stands in the way.
        why: Arc<str>,
    },
    /// Another SVID is in use.
    SvidInUse(Arc<Svid>),
    /// The node agent withdrew the identity of this process. No new calls are made or served.
    IdentityWithdrawn {
        /// What the node agent said.
        why: Arc<str>,
    },
    /// What the node agent sent was not taken over. The last good SVID stays.
    SvidRejected {
        /// What is wrong with it.
        why: Arc<str>,
    },
    /// An authority was removed from this trust domain's bundle. Connections that were verified under it are closed.
    AuthorityRemoved(TrustDomain),
    /// A policy is in force.
    PolicyInForce {
        /// The file it came from.
        path: PathBuf,
    },
    /// The policy file was refused whole. The last good policy, if there was one, stays in force.
    PolicyRefused(Arc<PolicyFileError>),
    /// A call to this workload was refused.
    CallRefused {
        /// Who called; `None` without a verified peer.
        caller: Option<SpiffeId>,
        /// Method and path, shortened and cleaned for a log.
        action: String,
        /// Why.
        reason: Reason,
        /// What was found out, which the caller is not told.
        detail: String,
    },
    /// A call of this workload was refused.
    OwnCallRefused {
        /// Who was to be called; `None` if a chain was to be started.
        callee: Option<SpiffeId>,
        /// Why.
        reason: Reason,
        /// What was found out here, or what the callee says about it, shortened and cleaned for a log.
        detail: String,
    },
    /// This reader was too slow; the number of events that it missed.
    Missed(u64),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { why } => write!(f, "Waiting: {why}"),
            Self::SvidInUse(svid) => write!(
                f,
                "The SVID {} is in use until {} (serial number {})",
                svid.id(),
                svid.not_after(),
                svid.serial()
            ),
            Self::IdentityWithdrawn { why } => write!(f, "The identity was withdrawn: {why}"),
            Self::SvidRejected { why } => write!(
                f,
                "What the node agent sent was not taken over, the last good SVID stays: {why}"
            ),
            Self::AuthorityRemoved(domain) => {
                write!(f, "An authority of the trust domain {domain} was removed")
            }
            Self::PolicyInForce { path } => {
                write!(f, "The policy in {} is in force", path.display())
            }
            Self::PolicyRefused(error) => write!(f, "Policy refused: {error:?}"),
            Self::CallRefused {
                caller: Some(caller),
                action,
                reason,
                detail,
            } => write!(f, "Refused {action} by {caller}: {reason}: {detail}"),
            Self::CallRefused {
                caller: None,
                action,
                reason,
                detail,
            } => write!(
                f,
                "Refused {action} by a caller without identity: {reason}: {detail}"
            ),
            Self::OwnCallRefused {
                callee: Some(callee),
                reason,
                detail,
            } => write!(f, "A call to {callee} was refused: {reason}: {detail}"),
            Self::OwnCallRefused {
                callee: None,
                reason,
                detail,
            } => write!(f, "No chain was started: {reason}: {detail}"),
            Self::Missed(count) => write!(f, "{count} events were missed"),
        }
    }
}

/// The events of a mesh since it began to join, oldest first.
///
/// The last 256 events are kept for readers. One that is slower than that gets [`Event::Missed`] in place of those that
/// are gone; it never slows the mesh down. Each reader sees all events.
///
/// [`Events::next`] takes one at a time, [`Events::into_stream`] makes a [`Stream`] of them.
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let join = countersign::Mesh::join();
/// let mut events = join.events();
/// tokio::spawn(async move {
///     while let Some(event) = events.next().await {
///         eprintln!("{event}");
///     }
/// });
/// let mesh = join.await?; // what it waits for is printed meanwhile
/// # Ok(())
/// # }
/// ```
pub struct Events {
    log: Arc<Shared>,
    written: watch::Receiver<u64>,
    next: u64,
}

impl Events {
    /// The next event; `None` when the mesh is gone and all its events were taken.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.take() {
                return Some(event);
            }
            let changed = self.written.changed().await;
            if changed.is_err() {
                return self.take();
            }
        }
    }

    /// These events as a stream, for combinators.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send + 'static {
        futures_util::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }

    fn take(&mut self) -> Option<Event> {
        let log = lock(&self.log.kept);
        let first = log.written.saturating_sub(log.events.len() as u64);
        if self.next < first {
            let missed = first - self.next;
            self.next = first;
            return Some(Event::Missed(missed));
        }
        let at = usize::try_from(self.next - first).ok()?;
        let event = log.events.get(at)?.clone();
        self.next += 1;
        Some(event)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The writing half. Clones write to the same log.
#[derive(Clone)]
pub(crate) struct EventLog {
    log: Arc<Shared>,
    written: watch::Sender<u64>,
}

#[derive(Default)]
struct Shared {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    /// How many were ever written.
    written: u64,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self {
            log: Arc::default(),
            written: watch::channel(0).0,
        }
    }

    pub(crate) fn write(&self, event: Event) {
        let mut log = lock(&self.log.kept);
        if log.events.len() == KEPT {
            log.events.pop_front();
        }
        log.events.push_back(event);
        log.written += 1;
        let written = log.written;
        drop(log);
        self.written.send_replace(written);
    }

    /// Reads from the oldest event that is still kept.
    pub(crate) fn read(&self) -> Events {
        let log = lock(&self.log.kept);
        Events {
            log: Arc::clone(&self.log),
            written: self.written.subscribe(),
            next: log.written.saturating_sub(log.events.len() as u64),
        }
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").finish_non_exhaustive()
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(number: usize) -> Event {
        Event::Waiting {
            why: number.to_string().into(),
        }
    }

    #[tokio::test]
    async fn a_reader_begins_with_what_happened_before() {
        let log = EventLog::new();
        log.write(waiting(1));
        let mut events = log.read();
        log.write(waiting(2));
        assert_eq!(events.next().await.unwrap().to_string(), "Waiting: 1");
        assert_eq!(events.next().await.unwrap().to_string(), "Waiting: 2");
        drop(log);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_missed() {
        let log = EventLog::new();
        let mut events = log.read();
        for number in 0..KEPT + 3 {
            log.write(waiting(number));
        }
        assert!(matches!(events.next().await, Some(Event::Missed(3))));
        assert_eq!(events.next().await.unwrap().to_string(), "Waiting: 3");
    }
}
