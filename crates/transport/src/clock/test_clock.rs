//! A clock that tests move by hand, together with tokio's time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use countersign_identity::UnixTime;

use super::{Clock, SharedClock};

/// How fine tokio's timers are.
pub const GRAIN: Duration = Duration::from_millis(1);

/// Time that stands still until [`TestClock::advance`] moves it: validity and, on the runtime that made it, tokio's.
///
/// Tokio's own paused time jumps ahead to the next timer whenever nothing else is ready, which breaks tests with real
/// sockets. This one holds that off for as long as it lives.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<TestClockState>);

#[derive(Debug)]
struct TestClockState {
    now: AtomicU64,
    /// Its end lets the blocking thread go that holds tokio's own jumps off.
    _hold: Option<mpsc::Sender<()>>,
}

impl TestClock {
    /// Starts at `now` and stops tokio's time. Must be called on a current-thread runtime (what `#[tokio::test]` makes)
    /// whose time is not stopped yet.
    #[must_use]
    pub fn start(now: UnixTime) -> Self {
        tokio::time::pause();
        let (hold, held) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || {
            // Nothing is ever sent: this waits for the sender's end.
            let _ = held.recv();
        });
        Self(Arc::new(TestClockState {
            now: AtomicU64::new(now.as_secs()),
            _hold: Some(hold),
        }))
    }

    /// Shows `now` and leaves tokio's time alone; for tests of pure code and for multi-thread runtimes.
    #[must_use]
    pub fn fixed(now: UnixTime) -> Self {
        Self(Arc::new(TestClockState {
            now: AtomicU64::new(now.as_secs()),
            _hold: None,
        }))
    }

    /// The same clock as components take it.
    #[must_use]
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Moves validity and then tokio's time by `span` (whole seconds count for validity), and lets tasks run whose
    /// timers have come. Timers set to exactly `span` have: tokio's time moves one [`GRAIN`] more, because timers end
    /// with the millisecond in which they come.
    pub async fn advance(&self, span: Duration) {
        self.set(self.now().after(span));
        tokio::time::advance(span + GRAIN).await;
    }

    /// Sets only the wall clock, as when an administrator or NTP sets the machine's clock.
    pub fn set(&self, now: UnixTime) {
        self.0.now.store(now.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.0.now.load(Ordering::SeqCst))
    }
}
