//! How many lines of the log a flood may cause: what anybody outside can bring about as often as they like must not fill
//! the disk. What is held back is counted, and told with the next line.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that may be written: so many a second, and so many at once.
#[derive(Debug)]
pub struct Allowance {
    per_second: f64,
    burst: f64,
    now: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    lines: f64,
    /// When that was.
    at: Instant,
    held: u64,
}

impl Allowance {
    /// So many lines a second, and so many at once after a quiet time.
    #[must_use]
    pub fn new((per_second, burst): (u32, u32)) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            now: Mutex::new(Left {
                lines: burst.into(),
                at: Instant::now(),
                held: 0,
            }),
        }
    }

    /// How many lines were held back since the last one; none if this one is held back too.
    pub fn line(&self) -> Option<u64> {
        let now = Instant::now();
        let mut left = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.duration_since(left.at).as_secs_f64() * self.per_second;
        left.lines = (left.lines + earned).min(self.burst);
        left.at = now;
        if left.lines < 1.0 {
            left.held = left.held.saturating_add(1);
            return None;
        }
        left.lines -= 1.0;
        Some(std::mem::take(&mut left.held))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_lines_is_held_back_and_counted() {
        let allowance = Allowance::new((10, 3));
        let line = || allowance.line();
        assert_eq!([line(), line(), line()], [Some(0); 3]);
        assert_eq!([line(), line()], [None; 2]);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!([line(), line()], [Some(2), None]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(
            [line(), line(), line(), line()],
            [Some(1), Some(0), Some(0), None]
        );
    }
}
