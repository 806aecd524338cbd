//! Rate limits per client IP address (wire contract, A.6): a call short of tokens waits for them instead of failing.

use std::net::IpAddr;
use std::time::Duration;

use countersign_limits::KeyedBuckets;
use countersign_limits::gcra::Rate;
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use super::status::ApiError;
use crate::limits;

/// A token bucket for each client.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Rate,
    clients: KeyedBuckets<IpAddr>,
    /// The buckets count time from here.
    start: Instant,
}

/// Tokens taken in advance. If the call is cancelled while it waits for them, dropping this gives them back.
struct Reservation<'a> {
    limit: &'a RateLimit,
    client: IpAddr,
    tokens: u32,
    used: bool,
}

impl RateLimit {
    /// A rate of this many tokens per second, and a burst of the same size, as in SPIRE.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            rate: Rate::per_second(per_second, per_second),
            clients: KeyedBuckets::new(limits::MAX_LIMITED_CLIENTS),
            start: Instant::now(),
        }
    }

    /// Takes tokens from a client's bucket, and waits until they are available.
    ///
    /// Fails at once if the wait would pass the call's deadline or [`limits::MAX_RATE_LIMIT_WAIT`] (decision 0009).
    pub(super) async fn take(
        &self,
        client: IpAddr,
        tokens: usize,
        deadline: Option<Instant>,
    ) -> Result<(), ApiError> {
        let exhausted = |why: String| ApiError::plain(Code::ResourceExhausted, why);
        let burst = self.rate.burst();
        // No wait would ever suffice. The text is SPIRE's.
        let Some(tokens) = u32::try_from(tokens).ok().filter(|n| *n <= burst) else {
            return Err(exhausted(format!(
                "rate ({tokens}) exceeds burst size ({burst})"
            )));
        };
        let now = Instant::now();
        let until_deadline = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let patience = until_deadline.map_or(limits::MAX_RATE_LIMIT_WAIT, |left| {
            left.min(limits::MAX_RATE_LIMIT_WAIT)
        });
        let wait = self
            .clients
            .reserve(client, self.rate, tokens, now - self.start, patience)
            .map_err(|wait| exhausted(too_long(wait, until_deadline)))?;
        let mut reservation = Reservation {
            limit: self,
            client,
            tokens,
            used: false,
        };
        sleep_until(now + wait).await;
        reservation.used = true;
        Ok(())
    }
}

fn too_long(wait: Duration, until_deadline: Option<Duration>) -> String {
    if until_deadline.is_some_and(|left| wait > left) {
        return "the rate limit would make the call wait past its deadline".into();
    }
    let seconds = limits::MAX_RATE_LIMIT_WAIT.as_secs();
    format!("the rate limit would make the call wait for more than {seconds} seconds")
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.used {
            let Self { limit, client, .. } = self;
            limit.clients.undo(client, limit.rate, self.tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use futures::FutureExt as _;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_next_waits_for_its_token() {
        let limit = RateLimit::new(10);
        let start = Instant::now();
        limit.take(CLIENT, 4, None).await.unwrap();
        limit.take(CLIENT, 6, None).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        limit.take(CLIENT, 1, None).await.unwrap();
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(100) && waited < Duration::from_millis(110));
        limit.take(CLIENT, 10, None).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(1_100));
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_does_not_slow_another() {
        let limit = RateLimit::new(1);
        limit.take(CLIENT, 1, None).await.unwrap();
        let other = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert!(limit.take(other, 1, None).now_or_never().is_some());
        assert!(limit.take(CLIENT, 1, None).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_burst_is_refused_at_once() {
        let limit = RateLimit::new(500);
        let refused = limit.take(CLIENT, 501, None).await.unwrap_err();
        let want = "rate (501) exceeds burst size (500)";
        assert_eq!(refused, ApiError::plain(Code::ResourceExhausted, want));
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_past_its_deadline() {
        let limit = RateLimit::new(1);
        limit.take(CLIENT, 1, None).await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(500);
        let start = Instant::now();
        limit.take(CLIENT, 1, Some(deadline)).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::ZERO);
        let deadline = Instant::now() + Duration::from_millis(1_500);
        limit.take(CLIENT, 1, Some(deadline)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_call_gives_its_tokens_back() {
        let limit = RateLimit::new(1);
        limit.take(CLIENT, 1, None).await.unwrap();
        for _ in 0..50 {
            assert!(limit.take(CLIENT, 1, None).now_or_never().is_none());
        }
        let start = Instant::now();
        limit.take(CLIENT, 1, None).await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(1_010));
    }
}
