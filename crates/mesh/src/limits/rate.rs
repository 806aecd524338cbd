//! Rates: the generic cell rate algorithm (ITU-T I.371), one atomic number per bucket.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most calls per unit of time that a rate may name.
pub const MAX_CALLS: u32 = 1_000_000;
/// The largest burst that a rate may name.
pub const MAX_BURST: u32 = 1_000_000;

const SECOND: u64 = 1_000_000_000;

/// How many calls may come in a while, and how many at once: `10/s burst 20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    calls: u32,
    unit: Unit,
    burst: u32,
    /// Nanoseconds between two calls, rounded up so that a rate is never exceeded.
    interval: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const fn nanos(self) -> u64 {
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3_600 * SECOND,
        }
    }
}

/// A text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate is written \"<calls>/<s|m|h> burst <at once>\", such as \"10/s burst 20\", with both numbers from 1 to 1000000"
)]
pub struct InvalidRate;

impl Rate {
    /// This many calls per second, and at most `burst` at once. Zero counts as one.
    #[must_use]
    pub const fn per_second(calls: u32, burst: u32) -> Self {
        Self::of(calls, Unit::Second, burst)
    }

    const fn of(calls: u32, unit: Unit, burst: u32) -> Self {
        let calls = if calls == 0 { 1 } else { calls };
        let burst = if burst == 0 { 1 } else { burst };
        // Widening; `u64::from` is not const.
        let interval = unit.nanos().div_ceil(calls as u64);
        Self {
            calls,
            unit,
            burst,
            interval,
        }
    }

    /// How far ahead of now a bucket may be filled, in nanoseconds. At most 3.6e18.
    fn depth(self) -> u64 {
        self.interval.saturating_mul(self.burst.into())
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, burst) = text.split_once(" burst ").ok_or(InvalidRate)?;
        let (calls, unit) = rate.split_once('/').ok_or(InvalidRate)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(InvalidRate),
        };
        Ok(Self::of(
            number(calls, MAX_CALLS)?,
            unit,
            number(burst, MAX_BURST)?,
        ))
    }
}

fn number(text: &str, most: u32) -> Result<u32, InvalidRate> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidRate);
    }
    text.parse()
        .ok()
        .filter(|n| (1..=most).contains(n))
        .ok_or(InvalidRate)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit} burst {}", self.calls, self.burst)
    }
}

/// One bucket: the theoretical arrival time of the next call, in nanoseconds of the monotonic clock.
///
/// A clock that goes back makes the bucket fuller, never emptier.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one call.
    ///
    /// # Errors
    /// How long until one would be let through.
    pub(crate) fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let mut filled = self.0.load(Ordering::Relaxed);
        loop {
            let next = filled.max(now).saturating_add(rate.interval);
            let over = (next - now).saturating_sub(rate.depth());
            if over > 0 {
                return Err(Duration::from_nanos(over));
            }
            match self
                .0
                .compare_exchange_weak(filled, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(current) => filled = current,
            }
        }
    }

    /// Gives one call back.
    pub(crate) fn undo(&self, rate: Rate) {
        let back = |filled: u64| Some(filled.saturating_sub(rate.interval));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// How long until a call would be let through; `None` if one would be now.
    pub(crate) fn wait(&self, rate: Rate, now: Duration) -> Option<Duration> {
        let now = nanos(now);
        let next = self
            .0
            .load(Ordering::Relaxed)
            .max(now)
            .saturating_add(rate.interval);
        let over = (next - now).saturating_sub(rate.depth());
        (over > 0).then(|| Duration::from_nanos(over))
    }

    /// Whether nothing of it is used, so that a fresh bucket would do the same.
    pub(crate) fn is_unused(&self, now: Duration) -> bool {
        self.0.load(Ordering::Relaxed) <= nanos(now)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_read_and_printed() {
        for text in ["50/s burst 100", "1/m burst 1", "1000000/h burst 1000000"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for bad in [
            "",
            "50/s",
            "50 burst 3",
            "0/s burst 1",
            "1/s burst 0",
            "1/d burst 1",
            "1/s burst 1000001",
            "+1/s burst 1",
            "1000001/s burst 1",
            " 1/s burst 1",
            "1/s  burst 1",
            "1/s burst 1 ",
            "1.5/s burst 1",
            "-1/s burst 1",
        ] {
            assert_eq!(bad.parse::<Rate>(), Err(InvalidRate), "{bad}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_per_interval() {
        let (bucket, rate) = (Bucket::default(), rate("2/s burst 3"));
        let now = Duration::from_secs(5);
        let served = (0..10).filter(|_| bucket.take(rate, now).is_ok()).count();
        assert_eq!(served, 3);
        assert_eq!(bucket.take(rate, now), Err(Duration::from_millis(500)));
        assert_eq!(bucket.wait(rate, now), Some(Duration::from_millis(500)));
        assert!(bucket.take(rate, now + Duration::from_millis(500)).is_ok());
        assert!(bucket.take(rate, now + Duration::from_millis(501)).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (bucket, rate) = (Bucket::default(), rate("1/h burst 2"));
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_err());
        bucket.undo(rate);
        assert!(bucket.take(rate, Duration::ZERO).is_ok());
        assert!(bucket.take(rate, Duration::ZERO).is_err());
    }

    #[test]
    fn case_13_a_clock_going_back_refills_nothing() {
        let (bucket, rate) = (Bucket::default(), rate("1/s burst 2"));
        let late = Duration::from_secs(100);
        assert!(bucket.take(rate, late).is_ok());
        assert!(bucket.take(rate, late).is_ok());
        for earlier in [99, 50, 0] {
            assert!(bucket.take(rate, Duration::from_secs(earlier)).is_err());
        }
    }

    proptest::proptest! {
        /// In any span, at most the burst and what the rate adds are let through.
        #[test]
        fn a_rate_is_never_exceeded(
            calls in 1_u32..50, burst in 1_u32..20, steps in proptest::collection::vec(0_u64..200, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::per_second(calls, burst));
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
                    let allowed = u64::from(burst) + (to - from) * u64::from(calls) / 1000;
                    proptest::prop_assert!(u64::try_from(j - i + 1).unwrap() <= allowed);
                }
            }
        }
    }
}
