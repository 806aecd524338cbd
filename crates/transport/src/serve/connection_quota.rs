//! A quota of connections per client, so that no client takes all that a listener has: neither a process nor a user of
//! this machine on a Unix socket, nor a SPIFFE ID over TLS.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use countersign_limits::{KeyedCounter, Lease};

use crate::limits;
use crate::log_limiter::LogLimiter;

/// Counts connections by client.
#[derive(Clone, Debug)]
pub(super) struct ConnectionQuota<K> {
    counter: KeyedCounter<K>,
    lines: Arc<LogLimiter>,
}

impl<K: Hash + Eq + Clone + Debug> ConnectionQuota<K> {
    /// One client gets at most half of the connections, so that it can't lock the others out.
    pub(super) fn half_of(connections: usize) -> Self {
        Self::at_most(connections / 2)
    }

    /// One client gets at most `limit` connections, and at least one.
    pub(super) fn at_most(limit: usize) -> Self {
        Self {
            counter: KeyedCounter::new(limit),
            lines: Arc::new(LogLimiter::new(limits::LINES)),
        }
    }

    /// A lease for one more connection of this client, unless its quota is used up.
    pub(super) fn lease(&self, client: K) -> Option<Lease<K>> {
        let lease = self.counter.lease(client)?;
        // Logged when the quota is reached, not at each refusal. Rate-limited as well, since a client that hovers
        // around its quota reaches it again and again.
        if lease.is_last()
            && let Some(held_back) = self.lines.line()
        {
            tracing::warn!(
                client = ?lease.key(),
                connections = self.counter.limit(),
                held_back = (held_back > 0).then_some(held_back),
                "This client has used up its quota of connections: more are refused"
            );
        }
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_half_of_the_connections() {
        let quota = ConnectionQuota::half_of(4);
        let held = [quota.lease(1), quota.lease(1)];
        assert!(held.iter().all(Option::is_some));
        assert!(quota.lease(1).is_none());
        assert!(quota.lease(2).is_some());
        drop(held);
        assert!(quota.lease(1).is_some());
        assert!(quota.counter.is_unused());
    }
}
