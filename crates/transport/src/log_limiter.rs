//! A bound on log lines that anyone outside can cause, so that a flood does not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_limits::gcra::{Bucket, Rate};
use tokio::time::Instant;

/// Lets a number of lines through per second, and counts those that it holds back.
#[derive(Debug)]
pub struct LogLimiter {
    rate: Rate,
    bucket: Bucket,
    /// The bucket counts time from here.
    start: Instant,
    held_back: AtomicU64,
}

impl LogLimiter {
    /// The rate in lines per second, and the burst in lines.
    #[must_use]
    pub fn new((per_second, burst): (u32, u32)) -> Self {
        Self {
            rate: Rate::per_second(per_second, burst),
            bucket: Bucket::default(),
            start: Instant::now(),
            held_back: AtomicU64::new(0),
        }
    }

    /// Asks for one line: `None` if it is suppressed, else how many were suppressed since the last one.
    pub fn line(&self) -> Option<u64> {
        match self.bucket.take(self.rate, self.start.elapsed()) {
            Ok(()) => Some(self.held_back.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_lines_is_held_back_and_counted() {
        let limiter = LogLimiter::new((10, 3));
        let line = || limiter.line();
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
