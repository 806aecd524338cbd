//! Exponential backoff with jitter.

use std::time::Duration;

/// Exponential backoff with jitter, so that clients that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
    base: Duration,
}

impl Backoff {
    /// The first wait is about `initial`, each further one twice as long, up to `max`, with a jitter of ±10 %.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            factor: 2.0,
            jitter: 0.1,
            base: initial,
        }
    }

    /// With another factor between two waits. A factor below 1, or not finite, counts as 1.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = if factor.is_finite() && factor > 1.0 {
            factor
        } else {
            1.0
        };
        self
    }

    /// With another jitter: a share of the wait, 0.0 to 1.0.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share.clamp(0.0, 1.0);
        self
    }

    /// The next wait: the current step with its jitter, at most the maximum.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.base.min(self.max);
        self.base = Duration::try_from_secs_f64(step.as_secs_f64() * self.factor)
            .map_or(self.max, |d| d.min(self.max));
        jittered(step, self.jitter).min(self.max)
    }

    /// Resets to the initial wait: call it after a success.
    pub const fn reset(&mut self) {
        self.base = self.initial;
    }

    /// Sleeps for the next wait.
    pub async fn wait(&mut self) {
        let wait = self.next_wait();
        tokio::time::sleep(wait).await;
    }
}

/// `span`, longer or shorter by a random part of it, at most `share` (0.0 to 1.0).
#[must_use]
pub fn jittered(span: Duration, share: f64) -> Duration {
    let share = share.clamp(0.0, 1.0);
    let by = (2.0 * fraction() - 1.0) * share;
    Duration::try_from_secs_f64(span.as_secs_f64() * (1.0 + by)).unwrap_or(span)
}

/// Uniform between 0.0 and 1.0. If the random source fails: 0.5, that is no jitter.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_with_jitter_up_to_the_maximum_until_a_reset() {
        for _ in 0..200 {
            let mut backoff = Backoff::new(SECOND, 5 * SECOND);
            for step in [1.0, 2.0, 4.0] {
                let wait = backoff.next_wait().as_secs_f64();
                assert!(
                    (step * 0.9..=step * 1.1).contains(&wait),
                    "{wait} is not about {step}"
                );
            }
            for _ in 0..3 {
                let wait = backoff.next_wait();
                assert!(
                    wait <= 5 * SECOND && wait >= 5 * SECOND * 9 / 10,
                    "{wait:?}"
                );
            }
            backoff.reset();
            assert!(backoff.next_wait() < 2 * SECOND);
        }
    }

    #[test]
    fn jitter_spreads_to_both_sides() {
        let waits: Vec<_> = (0..200).map(|_| jittered(10 * SECOND, 0.1)).collect();
        assert!(waits.iter().any(|w| *w < 10 * SECOND) && waits.iter().any(|w| *w > 10 * SECOND));
        assert_eq!(jittered(SECOND, 0.0), SECOND);
    }

    #[test]
    fn nothing_overflows() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX)
            .factor(f64::MAX)
            .jitter(1.0);
        for _ in 0..5 {
            let _ = backoff.next_wait();
        }
    }
}
