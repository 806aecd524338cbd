//! When to renew: pure arithmetic on times.

use std::time::Duration;

use countersign_identity::UnixTime;

/// How far from half-life a renewal may be, as a share of it (wire contract, C.6).
pub const JITTER: f64 = 0.1;

/// A renewal comes this much after the one before, if what was issued lasts that long.
const PAUSE: Duration = Duration::from_secs(5);

/// When to renew what is valid from `not_before` to `not_after`: at half of its life, moved by `jitter` of that half.
/// `jitter` is cut to ±[`JITTER`]. Whole seconds, rounded to the earlier one.
#[must_use]
pub fn renew_at(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
    let half = not_after.since(not_before) / 2;
    let jitter = if jitter.is_finite() {
        jitter.clamp(-JITTER, JITTER)
    } else {
        0.0
    };
    let left = Duration::try_from_secs_f64(half.as_secs_f64() * (1.0 + jitter)).unwrap_or(half);
    // Rounded up, so that a life of a few seconds is not taken to its very end.
    not_after.before(Duration::from_secs(
        left.as_secs() + u64::from(left.subsec_nanos() > 0),
    ))
}

/// When what was issued now and ends at `not_after` may be renewed at the earliest: after [`PAUSE`], or after half of what
/// is left if that is shorter, but never at once. Near the end of an authority a renewal ends no later than what it
/// replaces, and half of its life, back-date included, is over as soon as it is made.
#[must_use]
pub fn earliest(not_after: UnixTime, now: UnixTime) -> UnixTime {
    let half = not_after.since(now) / 2;
    now.after(half.min(PAUSE).max(Duration::from_secs(1)))
}

/// A jitter for [`renew_at`].
#[must_use]
pub fn random_jitter() -> f64 {
    use rand::Rng as _;
    rand::rng().random_range(-JITTER..=JITTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
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
