//! When to renew: pure arithmetic on times.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_transport::Clock;
use tokio::time::Instant;

/// How far from half-life a renewal may be, as a share of it (wire contract, C.6).
pub(crate) const JITTER: f64 = 0.1;

/// The least time between two renewals, if the SVID lives that long.
const PAUSE: Duration = Duration::from_secs(5);

/// An availability target applies only if it leaves at least this much of the lifetime before it (wire contract, C.6).
const GRACE: Duration = Duration::from_secs(12 * 60 * 60);

/// Spread of renewals due by an availability target.
const TARGET_SPREAD: Duration = Duration::from_secs(10 * 60);

/// A point in time, by both clocks. The wall clock may be set, and the monotonic clock stops while the machine is
/// suspended: what is due by either is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the wall clock, which validity goes by.
    pub(crate) wall: UnixTime,
    /// By the monotonic clock.
    pub(crate) steady: Instant,
}

impl Moment {
    /// Now.
    #[must_use]
    pub(crate) fn now(clock: &dyn Clock) -> Self {
        Self {
            wall: clock.now(),
            steady: Instant::now(),
        }
    }

    /// When it will be `wall`, unless the clock is set.
    #[must_use]
    pub(crate) fn instant_of(self, wall: UnixTime) -> Instant {
        self.steady + wall.since(self.wall)
    }
}

/// When something is due, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    wall: UnixTime,
    steady: Instant,
}

impl Due {
    /// At `wall`, seen from `now`.
    #[must_use]
    pub(crate) fn at(wall: UnixTime, now: Moment) -> Self {
        Self {
            wall,
            steady: now.instant_of(wall),
        }
    }

    /// Whether it is due by either clock.
    #[must_use]
    pub(crate) fn has_come(self, now: Moment) -> bool {
        self.wall <= now.wall || self.steady <= now.steady
    }

    /// When to check again.
    #[must_use]
    pub(crate) fn instant(self, now: Moment) -> Instant {
        self.steady.min(now.instant_of(self.wall))
    }

    /// By the wall clock, which validity goes by.
    #[must_use]
    pub(crate) const fn wall(self) -> UnixTime {
        self.wall
    }
}

/// When SVIDs are renewed, the node's own and workloads' alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// How long an outage of the server SVIDs must survive, if that is longer than half of a lifetime.
    pub(crate) availability_target: Option<Duration>,
}

impl Rotation {
    /// When to renew what is valid from `not_before` to `not_after`: at half of its life, moved by `jitter` of that
    /// half, or when no more than the availability target is left (and up to ten minutes, by the same jitter),
    /// whichever is first. `jitter` is cut to ±[`JITTER`]. Whole seconds, rounded to the earlier one.
    #[must_use]
    pub(crate) fn renew_at(
        self,
        not_before: UnixTime,
        not_after: UnixTime,
        jitter: f64,
    ) -> UnixTime {
        let life = not_after.since(not_before);
        let half = life / 2;
        let jitter = if jitter.is_finite() {
            jitter.clamp(-JITTER, JITTER)
        } else {
            0.0
        };
        let left = Duration::try_from_secs_f64(half.as_secs_f64() * (1.0 + jitter)).unwrap_or(half);
        let target = self
            .availability_target
            .filter(|target| life > target.saturating_add(GRACE))
            .map(|target| target + TARGET_SPREAD.mul_f64((jitter + JITTER) / (2.0 * JITTER)));
        let left = target.map_or(left, |target| target.max(left));
        // Rounded up, so that an SVID with a lifetime of a few seconds is renewed before its very end.
        not_after.before(Duration::from_secs(
            left.as_secs() + u64::from(left.subsec_nanos() > 0),
        ))
    }
}

/// When what was issued now and ends at `not_after` may be renewed at the earliest: after [`PAUSE`], or after half of
/// what is left if that is shorter, but never at once. Near the end of an authority a renewal ends no later than what
/// it replaces, and half of its life, back-date included, is over as soon as it is made.
#[must_use]
pub(crate) fn earliest(not_after: UnixTime, now: UnixTime) -> UnixTime {
    let half = not_after.since(now) / 2;
    now.after(half.min(PAUSE).max(Duration::from_secs(1)))
}

/// A jitter for the time of renewal.
#[must_use]
pub(crate) fn random_jitter() -> f64 {
    use rand::Rng as _;
    rand::rng().random_range(-JITTER..=JITTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn renew_at(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
        Rotation::default().renew_at(not_before, not_after, jitter)
    }

    #[test]
    fn an_availability_target_precedes_half_life_of_long_svids() {
        const HOUR: u64 = 3600;
        let rotation = Rotation {
            availability_target: Some(Duration::from_secs(24 * HOUR)),
        };
        // 40 h: more than 12 h beyond the target. Half-life would leave 20 h.
        assert_eq!(
            rotation.renew_at(at(0), at(40 * HOUR), -JITTER),
            at(16 * HOUR)
        );
        assert_eq!(
            rotation.renew_at(at(0), at(40 * HOUR), JITTER),
            at(16 * HOUR - 600)
        );
        assert_eq!(
            rotation.renew_at(at(0), at(36 * HOUR), 0.0),
            at(18 * HOUR),
            "too short for it"
        );
        assert_eq!(
            rotation.renew_at(at(0), at(100 * HOUR), 0.0),
            at(50 * HOUR),
            "half-life leaves more"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_by_either_clock_is_due() {
        let start = Moment {
            wall: at(1_000),
            steady: Instant::now(),
        };
        let due = Due::at(at(1_100), start);
        let moment = |wall: u64, passed: u64| Moment {
            wall: at(wall),
            steady: start.steady + Duration::from_secs(passed),
        };
        assert!(!due.has_come(moment(1_099, 99)));
        assert!(due.has_come(moment(1_100, 100)));
        assert!(due.has_come(moment(500, 100)), "the clock was set back");
        assert!(
            due.has_come(moment(1_100, 1)),
            "the machine slept, or the clock was set forward"
        );
        assert_eq!(
            due.instant(moment(1_090, 10)),
            start.steady + Duration::from_secs(20)
        );
    }

    #[test]
    fn renewal_is_at_half_life_give_or_take_a_tenth_of_that_half() {
        assert_eq!(renew_at(at(1_000), at(3_000), 0.0), at(2_000));
        assert_eq!(renew_at(at(1_000), at(3_000), JITTER), at(1_900));
        assert_eq!(renew_at(at(1_000), at(3_000), -JITTER), at(2_100));
        assert_eq!(
            renew_at(at(1_000), at(3_000), 5.0),
            at(1_900),
            "jitter is bounded"
        );
        assert_eq!(renew_at(at(1_000), at(3_000), f64::NAN), at(2_000));
    }

    #[test]
    fn lives_of_seconds_and_upside_down_ones_do_no_harm() {
        // 20 s of life and the 10 s of back-date: renewed about 5 s after the issue.
        assert_eq!(renew_at(at(90), at(120), 0.0), at(105));
        assert_eq!(renew_at(at(10), at(11), 0.0), at(10));
        assert_eq!(renew_at(at(11), at(10), 0.0), at(10));
    }

    #[test]
    fn renewals_keep_a_distance_however_short_the_life_is() {
        for (left, earliest_in) in [(3600, 5), (10, 5), (6, 3), (3, 1), (1, 1), (0, 1)] {
            let now = at(100);
            assert_eq!(
                earliest(at(100 + left), now),
                at(100 + earliest_in),
                "{left}"
            );
        }
    }

    #[test]
    fn random_jitter_keeps_to_its_bounds_and_spreads() {
        let all: Vec<f64> = (0..500).map(|_| random_jitter()).collect();
        assert!(all.iter().all(|j| (-JITTER..=JITTER).contains(j)));
        assert!(all.iter().any(|j| *j > 0.05) && all.iter().any(|j| *j < -0.05));
    }
}
