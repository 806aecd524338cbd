//! Rate limits per client address. Whoever is too fast waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Code;

use super::status::ApiError;
use crate::limits;

/// A bucket of tokens for each client: so many per second, and at most as many at once.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: u32,
    clients: Mutex<HashMap<IpAddr, Instant>>,
}

/// Tokens that were taken in advance. Dropped before their time has come, they go back.
struct Reservation<'a> {
    limit: &'a RateLimit,
    client: IpAddr,
    cost: Duration,
    kept: bool,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            clients: Mutex::default(),
        }
    }

    /// Takes so many tokens of a client, and waits until they are there.
    pub(super) async fn take(
        &self,
        client: IpAddr,
        tokens: usize,
        deadline: Option<Instant>,
    ) -> Result<(), ApiError> {
        let exhausted = |why: String| ApiError::plain(Code::ResourceExhausted, why);
        let Some(tokens) = u32::try_from(tokens).ok().filter(|n| *n <= self.per_second) else {
            return Err(exhausted(format!(
                "rate ({tokens}) exceeds burst size ({})",
                self.per_second
            )));
        };
        let cost = self.interval().saturating_mul(tokens);
        let (ready, mut reservation) = {
            let now = Instant::now();
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            // When the client's bucket is full again; a client that is not there has a full one.
            let full = clients.get(&client).copied().unwrap_or(now).max(now) + cost;
            let ready = now.max(full.checked_sub(Duration::from_secs(1)).unwrap_or(now));
            if deadline.is_some_and(|deadline| ready > deadline) {
                return Err(exhausted(
                    "the rate limit would make the call wait past its deadline".into(),
                ));
            }
            if ready - now > limits::MAX_RATE_LIMIT_WAIT {
                let seconds = limits::MAX_RATE_LIMIT_WAIT.as_secs();
                return Err(exhausted(format!(
                    "the rate limit would make the call wait for more than {seconds} seconds"
                )));
            }
            make_room(&mut clients, client, now);
            clients.insert(client, full);
            (
                ready,
                Reservation {
                    limit: self,
                    client,
                    cost,
                    kept: false,
                },
            )
        };
        sleep_until(ready).await;
        reservation.kept = true;
        Ok(())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut clients = self
            .limit
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = clients.get_mut(&self.client)
            && let Some(earlier) = full.checked_sub(self.cost)
        {
            *full = earlier;
        }
    }
}

/// Forgets clients with full buckets, which costs nothing; if that is not enough, the half that is idle longest.
fn make_room(clients: &mut HashMap<IpAddr, Instant>, client: IpAddr, now: Instant) {
    if clients.len() < limits::MAX_LIMITED_CLIENTS || clients.contains_key(&client) {
        return;
    }
    clients.retain(|_, full| *full > now);
    if clients.len() >= limits::MAX_LIMITED_CLIENTS {
        let mut times: Vec<Instant> = clients.values().copied().collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        clients.retain(|_, full| *full > median);
    }
}

/// When the caller stops waiting, by the header `grpc-timeout`: at most eight digits and a unit.
pub(super) fn deadline(headers: &tonic::metadata::MetadataMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let span = match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(span)
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

    #[tokio::test(start_paused = true)]
    async fn the_clients_remembered_are_bounded() {
        let limit = RateLimit::new(1);
        let addresses = (0..u32::try_from(limits::MAX_LIMITED_CLIENTS).unwrap() + 100)
            .map(|n| IpAddr::V4(Ipv4Addr::from_bits(n)));
        for address in addresses {
            limit.take(address, 1, None).await.unwrap();
        }
        assert!(limit.clients.lock().unwrap().len() <= limits::MAX_LIMITED_CLIENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_header_is_understood() {
        let in_ = |text: &str| {
            let mut headers = tonic::metadata::MetadataMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers).map(|at| at - Instant::now())
        };
        assert_eq!(in_("3S"), Some(Duration::from_secs(3)));
        assert_eq!(in_("250m"), Some(Duration::from_millis(250)));
        assert_eq!(in_("1H"), Some(Duration::from_secs(3600)));
        for bad in ["S", "", "3", "-3S", "3X", "123456789S"] {
            assert_eq!(in_(bad), None, "{bad}");
        }
    }
}
