//! The wall clock, by which the validity of certificates is decided.
//!
//! Timers use tokio's time, rates and ages the monotonic clock. Validity uses a [`Clock`], which is passed to each
//! component that needs it. Tests pass a `TestClock`, which moves both together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;

#[cfg(feature = "test-util")]
mod test_clock;

#[cfg(feature = "test-util")]
pub use test_clock::{GRAIN, TestClock};

/// A clock shared between components.
pub type SharedClock = Arc<dyn Clock>;

/// A source of wall-clock time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current time, to decide whether something is valid.
    fn now(&self) -> UnixTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock as a [`SharedClock`].
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for the time"
    )]
    fn now(&self) -> UnixTime {
        std::time::SystemTime::now().into()
    }
}

/// A [`Clock`] as rustls's `TimeProvider`.
#[derive(Clone, Debug)]
pub struct RustlsTime(SharedClock);

impl RustlsTime {
    /// Adapts a clock for the builders of rustls configurations.
    #[must_use]
    pub fn shared(clock: SharedClock) -> Arc<dyn rustls::time_provider::TimeProvider> {
        Arc::new(Self(clock))
    }
}

impl rustls::time_provider::TimeProvider for RustlsTime {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        Some(self.0.now().to_pki())
    }
}

/// The longest sleep before the clock is read again: tokio's time stops while the machine is suspended, and does not
/// follow when the wall clock is set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Waits until the clock shows `moment` or later.
pub async fn until(clock: &dyn Clock, moment: UnixTime) {
    loop {
        let left = moment.since(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}
