//! The time by which validity is judged.
//!
//! Waiting goes by tokio's time, rates and ages by the monotonic clock; whether a certificate is valid goes by a
//! [`Clock`], which is handed to whoever needs it. Tests hand in a `TestClock`, which moves both together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;

#[cfg(feature = "test-util")]
mod test_clock;

#[cfg(feature = "test-util")]
pub use test_clock::{GRAIN, TestClock};

/// A clock as components keep it.
pub type SharedClock = Arc<dyn Clock>;

/// Says what time it is.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present, for judging whether something is valid.
    fn now(&self) -> UnixTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, ready to be handed around.
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

/// A [`Clock`] as rustls wants it.
#[derive(Clone, Debug)]
pub struct RustlsTime(SharedClock);

impl RustlsTime {
    /// Adapts a clock; the result goes into the builders of rustls configurations.
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

/// The longest sleep before the clock is asked again: tokio's time stands still while the machine sleeps, and does not
/// follow when somebody sets the clock.
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
