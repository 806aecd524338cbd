//! The generic cell rate algorithm (ITU-T I.371): a leaky bucket in one atomic number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something may happen, and how often at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds per unit, rounded up so that the rate is never exceeded.
    interval: u64,
    burst: u32,
}

impl Rate {
    /// `count` units per `span`, and at most `burst` at once. Zero counts as one.
    #[must_use]
    pub const fn new(count: u32, span: Duration, burst: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        // Widening; `u128::from` is not const. The quotient of a span beyond 584 years saturates.
        let interval = span.as_nanos().div_ceil(count as u128);
        let interval = if interval > u64::MAX as u128 {
            u64::MAX
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "it was compared above")]
            let narrow = interval as u64;
            narrow
        };
        Self {
            interval,
            burst: if burst == 0 { 1 } else { burst },
        }
    }

    /// `count` units per second, and at most `burst` at once. Zero counts as one.
    #[must_use]
    pub const fn per_second(count: u32, burst: u32) -> Self {
        Self::new(count, Duration::from_secs(1), burst)
    }

    /// The most units that can be taken at once.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    fn cost(self, units: u32) -> u64 {
        self.interval.saturating_mul(units.into())
    }
}

/// One bucket. It holds the theoretical arrival time of the next unit, in nanoseconds of the caller's monotonic clock.
///
/// A clock that goes back makes the bucket fuller, never emptier.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one unit.
    ///
    /// # Errors
    /// How long until one would be let through.
    pub fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.reserve(rate, 1, now, Duration::ZERO).map(|_| ())
    }

    /// Takes several units that may be used after the wait that it returns, which is at most `patience`.
    ///
    /// # Errors
    /// The wait, if it is longer. Nothing is taken then.
    pub fn reserve(
        &self,
        rate: Rate,
        units: u32,
        now: Duration,
        patience: Duration,
    ) -> Result<Duration, Duration> {
        let now = nanos(now);
        let mut arrival = self.0.load(Ordering::Relaxed);
        loop {
            let (next, wait) = after(arrival, rate, units, now);
            if wait > patience {
                return Err(wait);
            }
            match self
                .0
                .compare_exchange_weak(arrival, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(wait),
                Err(current) => arrival = current,
            }
        }
    }

    /// Gives units back.
    pub fn undo(&self, rate: Rate, units: u32) {
        let back = |arrival: u64| Some(arrival.saturating_sub(rate.cost(units)));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// How long until a unit would be let through; `None` if one would be now.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Duration) -> Option<Duration> {
        let (_, wait) = after(self.0.load(Ordering::Relaxed), rate, 1, nanos(now));
        (!wait.is_zero()).then_some(wait)
    }

    /// Whether nothing of it is used, so that a fresh bucket would do the same.
    #[must_use]
    pub fn is_unused(&self, now: Duration) -> bool {
        self.0.load(Ordering::Relaxed) <= nanos(now)
    }

    /// When nothing of it will be used, on the caller's clock.
    pub(crate) fn unused_at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The arrival time once `units` are taken, and how long they have to wait.
fn after(arrival: u64, rate: Rate, units: u32, now: u64) -> (u64, Duration) {
    let next = arrival.max(now).saturating_add(rate.cost(units));
    let over = (next - now).saturating_sub(rate.cost(rate.burst));
    (next, Duration::from_nanos(over))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_burst_passes_at_once_and_then_one_per_interval() {
        let (bucket, rate) = (Bucket::default(), Rate::per_second(2, 3));
        let now = Duration::from_secs(5);
        let served = (0..10).filter(|_| bucket.take(rate, now).is_ok()).count();
        assert_eq!(served, 3);
        assert_eq!(bucket.take(rate, now), Err(Duration::from_millis(500)));
        assert_eq!(bucket.wait(rate, now), Some(Duration::from_millis(500)));
        assert!(bucket.take(rate, now + Duration::from_millis(500)).is_ok());
        assert!(bucket.take(rate, now + Duration::from_millis(501)).is_err());
    }

    #[test]
    fn units_given_back_can_be_taken_again() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, HOUR, 2));
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_err());
        bucket.undo(rate, 1);
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_err());
    }

    #[test]
    fn a_clock_going_back_refills_nothing() {
        let (bucket, rate) = (Bucket::default(), Rate::per_second(1, 2));
        let late = Duration::from_secs(100);
        assert!(bucket.take(rate, late).is_ok());
        assert!(bucket.take(rate, late).is_ok());
        for earlier in [99, 50, 0] {
            assert!(bucket.take(rate, Duration::from_secs(earlier)).is_err());
        }
    }

    #[test]
    fn a_reservation_waits_no_longer_than_its_patience() {
        let (bucket, rate) = (Bucket::default(), Rate::per_second(10, 10));
        let (now, second) = (Duration::from_secs(7), Duration::from_secs(1));
        assert_eq!(bucket.reserve(rate, 10, now, second), Ok(Duration::ZERO));
        assert_eq!(bucket.reserve(rate, 10, now, second), Ok(second));
        let wait = Duration::from_millis(1_100);
        assert_eq!(bucket.reserve(rate, 1, now, second), Err(wait));
        bucket.undo(rate, 10);
        let wait = Duration::from_millis(100);
        assert_eq!(bucket.reserve(rate, 1, now, second), Ok(wait));
    }

    #[test]
    fn a_rate_is_rounded_down_and_never_overflows() {
        assert_eq!(Rate::per_second(0, 0), Rate::per_second(1, 1));
        assert_eq!(Rate::per_second(3, 1).interval, 333_333_334);
        let slowest = Rate::new(1, Duration::MAX, u32::MAX);
        let bucket = Bucket::default();
        assert!(bucket.take(slowest, Duration::MAX).is_ok());
    }

    proptest::proptest! {
        /// In any span, at most the burst and what the rate adds are let through.
        #[test]
        fn a_rate_is_never_exceeded(
            count in 1_u32..50, burst in 1_u32..20, steps in proptest::collection::vec(0_u64..200, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::per_second(count, burst));
            let mut now = 0;
            let mut served = Vec::new();
            for step in steps {
                now += step;
                if bucket.take(rate, Duration::from_millis(now)).is_ok() {
                    served.push(now);
                }
            }
            for (i, from) in served.iter().enumerate() {
                for (j, to) in served.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (to - from) * u64::from(count) / 1000;
                    proptest::prop_assert!(u64::try_from(j - i + 1).unwrap() <= allowed);
                }
            }
        }
    }
}
