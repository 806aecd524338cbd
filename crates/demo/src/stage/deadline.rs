//! The end of the show's time, and what was being waited for when it came.

use std::time::Duration;

use tokio::time::Instant;

/// When the show has to be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

/// The time is over.
#[derive(Debug, thiserror::Error)]
#[error("gave up after {} s, waiting for {what}", limit.as_secs())]
pub(crate) struct TooLate {
    what: String,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    pub(crate) fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Waits for something, as long as there is time.
    pub(crate) async fn wait<F: Future>(self, what: &str, future: F) -> Result<F::Output, TooLate> {
        let late = |_| TooLate {
            what: what.to_owned(),
            limit: self.limit,
        };
        tokio::time::timeout_at(self.at, future).await.map_err(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_waited_for_is_named() {
        let deadline = Deadline::after(Duration::ZERO);
        let error = deadline
            .wait("the end", std::future::pending::<()>())
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "gave up after 0 s, waiting for the end");
    }
}
