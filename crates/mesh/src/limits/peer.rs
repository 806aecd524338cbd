//! What is known about the direct peers of this process: their buckets, their calls, and what they hold.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use countersign_identity::verify::Leaf;
use countersign_identity::{KeyId, SpiffeId};
use countersign_limits::gcra::Bucket;
use rustls_pki_types::CertificateDer;

use super::replay::Replay;
use super::{FAILURE_RATE, Held, Part, Quota, Sharded, lock};
use crate::chain::LinkKey;

/// The certificates that a peer presented on its connection, which TLS has verified.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) kid: KeyId,
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: OnceLock<Option<LinkKey>>,
}

impl Presented {
    /// The leaf's key, opened when it is first needed; `None` if it cannot sign links.
    pub(crate) fn key(&self) -> Option<&LinkKey> {
        let open = || {
            let leaf = Leaf::parse(self.chain.first()?).ok()?;
            LinkKey::from_spki(&leaf.spki).filter(|_| leaf.kid == self.kid)
        };
        self.key.get_or_init(open).as_ref()
    }
}

/// One direct peer.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// Requests that failed in steps 3 to 9.
    pub(crate) failures: Bucket,
    /// Chains that it started.
    pub(crate) new_chains: Bucket,
    /// The edges from it to the identities of this process, of which there are few.
    edges: Mutex<Vec<(SpiffeId, Arc<Bucket>)>>,
    pub(crate) replay: Mutex<Replay>,
    presented: Mutex<Option<Arc<Presented>>>,
    pub(crate) calls: Held,
    pub(crate) counters: Held,
    pub(crate) prefixes: Held,
    pub(crate) leaves: Held,
}

impl PeerState {
    /// Charges one failed request to the peer. A bucket that is empty stays so.
    pub(crate) fn charge_failure(&self, now: Duration) {
        let _ = self.failures.take(FAILURE_RATE.gcra(), now);
    }

    /// The bucket of the edge to `callee`.
    pub(crate) fn edge(&self, callee: &SpiffeId) -> Arc<Bucket> {
        let mut edges = lock(&self.edges);
        if let Some((_, bucket)) = edges.iter().find(|(id, _)| id == callee) {
            return Arc::clone(bucket);
        }
        let bucket = Arc::<Bucket>::default();
        edges.push((callee.clone(), Arc::clone(&bucket)));
        bucket
    }

    /// What the peer presented on this connection, shared by all its requests.
    pub(crate) fn presented(
        &self,
        kid: KeyId,
        chain: &[CertificateDer<'static>],
    ) -> Arc<Presented> {
        let mut latest = lock(&self.presented);
        if let Some(known) = latest
            .as_ref()
            .filter(|known| known.kid == kid && known.chain == chain)
        {
            return Arc::clone(known);
        }
        let new = Arc::new(Presented {
            kid,
            chain: chain.to_vec(),
            key: OnceLock::new(),
        });
        *latest = Some(Arc::clone(&new));
        new
    }

    /// Whether forgetting this peer changes nothing.
    fn is_idle(&self, now: Duration) -> bool {
        self.failures.is_unused(now)
            && self.new_chains.is_unused(now)
            && lock(&self.edges)
                .iter()
                .all(|(_, bucket)| bucket.is_unused(now) && Arc::strong_count(bucket) == 1)
            && [&self.calls, &self.counters, &self.prefixes, &self.leaves]
                .into_iter()
                .all(Held::is_none)
    }
}

/// All direct peers about which anything is known. A bucket is never forgotten before it is unused again.
#[derive(Debug)]
pub(crate) struct Peers {
    states: Sharded<SpiffeId, Arc<PeerState>>,
    known: AtomicUsize,
    capacity: usize,
    /// Full seconds of the monotonic clock, plus one, at the last sweep.
    swept: AtomicU64,
}

impl Peers {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            states: Sharded::default(),
            known: AtomicUsize::new(0),
            capacity,
            swept: AtomicU64::new(0),
        }
    }

    /// About how many peers something may be known.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// What is known about a peer; `None` if that is nothing.
    pub(crate) fn find(&self, id: &SpiffeId) -> Option<Arc<PeerState>> {
        self.states.shard(id).get(id).cloned()
    }

    /// The state of a peer, made if there was none. `None` if there is no room for another peer.
    pub(crate) fn enter(&self, id: &SpiffeId, now: Duration) -> Option<Arc<PeerState>> {
        if let Some(state) = self.find(id) {
            return Some(state);
        }
        if self.known.load(Ordering::Relaxed) >= self.capacity {
            self.sweep(now);
        }
        let more = |known: usize| (known < self.capacity).then_some(known + 1);
        self.known
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let mut shard = self.states.shard(id);
        // Another request of the same peer may have been faster; its place is given back.
        if let Some(state) = shard.get(id) {
            self.known.fetch_sub(1, Ordering::Relaxed);
            return Some(Arc::clone(state));
        }
        let state = Arc::<PeerState>::default();
        shard.insert(id.clone(), Arc::clone(&state));
        Some(state)
    }

    /// Forgets the calls that could not pass for fresh at `now`. Whether there were any.
    pub(crate) fn sweep_calls(&self, part: Part, now: u64, quota: &Quota) -> bool {
        let mut forgotten = false;
        self.states.retain(part, |_, state| {
            forgotten |= lock(&state.replay).sweep(now, quota, &state.calls);
            true
        });
        forgotten
    }

    /// Forgets idle peers, at most once a second.
    fn sweep(&self, now: Duration) {
        let stamp = now.as_secs() + 1;
        if self.swept.swap(stamp, Ordering::Relaxed) == stamp {
            return;
        }
        self.states.retain(Part::All, |_, state| {
            // Nobody can take another reference while the part of the map is locked.
            let keep = Arc::strong_count(state) > 1 || !state.is_idle(now);
            if !keep {
                self.known.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Rate;

    fn id(n: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/peer/{n}")).unwrap()
    }

    #[test]
    fn case_13_fresh_peers_do_not_push_out_a_used_bucket() {
        let peers = Peers::new(100);
        let rate = Rate::per_second(1, 1).gcra();
        let used = peers.enter(&id(0), Duration::ZERO).unwrap();
        assert!(used.edge(&id(1)).take(rate, Duration::ZERO).is_ok());
        drop(used);
        for n in 1..1_000 {
            let _ = peers.enter(&id(n), Duration::from_millis(500));
        }
        let again = peers.enter(&id(0), Duration::from_millis(900)).unwrap();
        assert!(
            again
                .edge(&id(1))
                .take(rate, Duration::from_millis(900))
                .is_err()
        );
        drop(again);
        // Once it is unused again, forgetting it changes nothing.
        for n in 1_000..2_000 {
            let _ = peers.enter(&id(n), Duration::from_secs(5));
        }
        assert!(peers.enter(&id(0), Duration::from_secs(60)).is_some());
    }

    #[test]
    fn a_peer_that_presents_another_certificate_is_seen_with_it() {
        let state = PeerState::default();
        let (old, new) = (KeyId::from_bytes([1; 32]), KeyId::from_bytes([2; 32]));
        let chain = |byte| [CertificateDer::from(vec![byte])];
        let first = state.presented(old, &chain(1));
        assert!(Arc::ptr_eq(&first, &state.presented(old, &chain(1))));
        assert_eq!(state.presented(new, &chain(2)).kid, new);
        assert_eq!(state.presented(old, &chain(3)).chain, chain(3));
        assert!(first.key().is_none());
    }
}
