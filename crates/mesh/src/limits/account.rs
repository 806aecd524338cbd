//! Accounts: how many calls a callee has seen of each chain and downstream of each link.
//!
//! The split of a budget binds only those who obey it; these counts bind everyone (`docs/call-chains.md`, section 5).

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::SpiffeId;

use super::{Part, PeerState, Quota, Rate, Sharded};
use crate::chain::{ChainId, PrefixHash};

/// Which piece of work: an ID counts only together with the originator that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChainKey {
    pub(crate) originator: SpiffeId,
    pub(crate) id: ChainId,
}

/// Why an account was not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccountError {
    /// The limit is reached.
    Limit,
    /// The peer's share of the map is used up.
    NoRoom,
    /// Too many new chains; one would pass after this long.
    TooFast(Duration),
}

#[derive(Debug)]
struct LinkAccount {
    calls: u32,
    until: u64,
    owner: Arc<PeerState>,
}

#[derive(Debug)]
struct ChainAccount {
    calls: u32,
    until: u64,
    /// Whether the call that opened the chain at this callee has been charged as a new chain.
    is_opened: bool,
    owner: Arc<PeerState>,
    edges: Vec<EdgeAccount>,
}

#[derive(Debug)]
struct EdgeAccount {
    from: SpiffeId,
    to: SpiffeId,
    calls: u32,
    owner: Arc<PeerState>,
}

/// All accounts of one callee process. Times are Unix seconds; an account is dropped once its deadline has passed.
#[derive(Debug)]
pub(crate) struct Accounts {
    links: Sharded<PrefixHash, LinkAccount>,
    chains: Sharded<ChainKey, ChainAccount>,
    quota: Quota,
}

impl Accounts {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            links: Sharded::default(),
            chains: Sharded::default(),
            quota: Quota::new(capacity),
        }
    }

    /// How many counters there may be in all.
    pub(crate) const fn capacity(&self) -> usize {
        self.quota.capacity()
    }

    /// Counts a call on one edge within one chain.
    pub(crate) fn charge_edge(
        &self,
        key: &ChainKey,
        edge: (&SpiffeId, &SpiffeId),
        limit: u32,
        until: u64,
        peer: &Arc<PeerState>,
    ) -> Result<(), AccountError> {
        let mut shard = self.chains.shard(key);
        if !shard.contains_key(key) {
            self.claim(peer)?;
            shard.insert(key.clone(), ChainAccount::new(until, peer));
        }
        let account = shard.get_mut(key).ok_or(AccountError::NoRoom)?;
        account.until = account.until.max(until);
        let charged = account.charge_edge(edge, limit, peer, || self.claim(peer));
        if charged.is_err() && account.is_unused() {
            self.drop_chain(&shard.remove(key));
        }
        charged
    }

    /// Takes back what [`Accounts::charge_edge`] counted.
    pub(crate) fn undo_edge(&self, key: &ChainKey, edge: (&SpiffeId, &SpiffeId)) {
        let mut shard = self.chains.shard(key);
        let Some(account) = shard.get_mut(key) else {
            return;
        };
        if let Some(at) = account.edges.iter().position(|e| (&e.from, &e.to) == edge)
            && let Some(of_edge) = account.edges.get_mut(at)
        {
            of_edge.calls = of_edge.calls.saturating_sub(1);
            if of_edge.calls == 0 {
                let gone = account.edges.swap_remove(at);
                self.quota.release(&gone.owner.counters, 1);
            }
        }
        if account.is_unused() {
            self.drop_chain(&shard.remove(key));
        }
    }

    /// Counts a call downstream of one link.
    pub(crate) fn charge_link(
        &self,
        prefix: &PrefixHash,
        budget: u16,
        until: u64,
        peer: &Arc<PeerState>,
    ) -> Result<(), AccountError> {
        let mut shard = self.links.shard(prefix);
        if let Some(account) = shard.get_mut(prefix) {
            if account.calls >= budget.into() {
                return Err(AccountError::Limit);
            }
            account.calls += 1;
            account.until = account.until.max(until);
            return Ok(());
        }
        if budget == 0 {
            return Err(AccountError::Limit);
        }
        self.claim(peer)?;
        shard.insert(
            *prefix,
            LinkAccount {
                calls: 1,
                until,
                owner: Arc::clone(peer),
            },
        );
        Ok(())
    }

    /// Takes back what [`Accounts::charge_link`] counted.
    pub(crate) fn undo_link(&self, prefix: &PrefixHash) {
        let mut shard = self.links.shard(prefix);
        let Some(account) = shard.get_mut(prefix) else {
            return;
        };
        account.calls = account.calls.saturating_sub(1);
        if account.calls == 0
            && let Some(gone) = shard.remove(prefix)
        {
            self.quota.release(&gone.owner.counters, 1);
        }
    }

    /// Counts a call of a chain that [`Accounts::charge_edge`] has entered. With `opening`, the originator itself calls:
    /// the first such call is charged as a new chain, at this rate. Whether this call was the one.
    pub(crate) fn charge_chain(
        &self,
        key: &ChainKey,
        budget: u16,
        opening: Option<(&PeerState, Rate, Duration)>,
    ) -> Result<bool, AccountError> {
        let mut shard = self.chains.shard(key);
        let account = shard.get_mut(key).ok_or(AccountError::NoRoom)?;
        if account.calls >= budget.into() {
            return Err(AccountError::Limit);
        }
        let mut opens = false;
        if let Some((originator, rate, now)) = opening
            && !account.is_opened
        {
            originator
                .new_chains
                .take(rate.gcra(), now)
                .map_err(AccountError::TooFast)?;
            account.is_opened = true;
            opens = true;
        }
        account.calls += 1;
        Ok(opens)
    }

    /// Takes back what [`Accounts::charge_chain`] counted, but for the bucket of new chains.
    pub(crate) fn undo_chain(&self, key: &ChainKey, opened: bool) {
        let mut shard = self.chains.shard(key);
        let Some(account) = shard.get_mut(key) else {
            return;
        };
        account.calls = account.calls.saturating_sub(1);
        if opened {
            account.is_opened = false;
        }
        if account.is_unused() {
            self.drop_chain(&shard.remove(key));
        }
    }

    /// Drops the accounts whose deadline has passed at `now`. Whether there were any.
    pub(crate) fn sweep(&self, part: Part, now: u64) -> bool {
        let mut dropped = false;
        self.links.retain(part, |_, account| {
            let keep = now < account.until;
            if !keep {
                self.quota.release(&account.owner.counters, 1);
                dropped = true;
            }
            keep
        });
        self.chains.retain(part, |_, account| {
            let keep = now < account.until;
            if !keep {
                self.release_chain(account);
                dropped = true;
            }
            keep
        });
        dropped
    }

    fn claim(&self, peer: &PeerState) -> Result<(), AccountError> {
        if self.quota.claim(&peer.counters) {
            Ok(())
        } else {
            Err(AccountError::NoRoom)
        }
    }

    fn drop_chain(&self, gone: &Option<ChainAccount>) {
        if let Some(account) = gone {
            self.release_chain(account);
        }
    }

    fn release_chain(&self, account: &ChainAccount) {
        self.quota.release(&account.owner.counters, 1);
        for edge in &account.edges {
            self.quota.release(&edge.owner.counters, 1);
        }
    }
}

impl ChainAccount {
    fn new(until: u64, owner: &Arc<PeerState>) -> Self {
        Self {
            calls: 0,
            until,
            is_opened: false,
            owner: Arc::clone(owner),
            edges: Vec::new(),
        }
    }

    fn is_unused(&self) -> bool {
        self.calls == 0 && self.edges.is_empty()
    }

    fn charge_edge(
        &mut self,
        (from, to): (&SpiffeId, &SpiffeId),
        limit: u32,
        peer: &Arc<PeerState>,
        claim: impl FnOnce() -> Result<(), AccountError>,
    ) -> Result<(), AccountError> {
        if let Some(edge) = self
            .edges
            .iter_mut()
            .find(|edge| edge.from == *from && edge.to == *to)
        {
            if edge.calls >= limit {
                return Err(AccountError::Limit);
            }
            edge.calls += 1;
            return Ok(());
        }
        if limit == 0 {
            return Err(AccountError::Limit);
        }
        claim()?;
        self.edges.push(EdgeAccount {
            from: from.clone(),
            to: to.clone(),
            calls: 1,
            owner: Arc::clone(peer),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/{name}")).unwrap()
    }

    fn key(n: u8) -> ChainKey {
        ChainKey {
            originator: id("a"),
            id: ChainId::from_bytes([n; 16]),
        }
    }

    #[test]
    fn a_link_pays_for_its_budget_and_no_more() {
        let (accounts, peer) = (Accounts::new(10), Arc::default());
        assert_eq!(
            (0..5)
                .filter(|_| accounts.charge_link(&[1; 32], 3, 100, &peer).is_ok())
                .count(),
            3
        );
        assert_eq!(
            accounts.charge_link(&[2; 32], 0, 100, &peer),
            Err(AccountError::Limit)
        );
        accounts.undo_link(&[1; 32]);
        assert_eq!(accounts.charge_link(&[1; 32], 3, 100, &peer), Ok(()));
        assert_eq!(
            accounts.charge_link(&[1; 32], 3, 100, &peer),
            Err(AccountError::Limit)
        );
    }

    #[test]
    fn undoing_everything_leaves_nothing_behind() {
        let (accounts, peer) = (Accounts::new(10), Arc::default());
        let (from, to) = (id("a"), id("b"));
        accounts
            .charge_edge(&key(1), (&from, &to), 2, 100, &peer)
            .unwrap();
        accounts.charge_link(&[1; 32], 3, 100, &peer).unwrap();
        let rate = Rate::per_second(1, 1);
        let opened = accounts
            .charge_chain(&key(1), 5, Some((&peer, rate, Duration::ZERO)))
            .unwrap();
        assert_eq!((opened, accounts.quota.used()), (true, 3));
        accounts.undo_chain(&key(1), opened);
        accounts.undo_link(&[1; 32]);
        accounts.undo_edge(&key(1), (&from, &to));
        assert_eq!(
            (
                accounts.quota.used(),
                accounts.links.len(),
                accounts.chains.len()
            ),
            (0, 0, 0)
        );
        assert!(peer.counters.is_none());
    }

    #[test]
    fn case_10_ten_calls_of_one_piece_of_work_charge_one_new_chain() {
        let (accounts, peer) = (Accounts::new(10), Arc::default());
        let rate = Rate::per_second(1, 1);
        let call = |n| {
            accounts.charge_edge(&key(n), (&id("a"), &id("b")), 64, 100, &peer)?;
            accounts.charge_chain(&key(n), 256, Some((&peer, rate, Duration::ZERO)))
        };
        assert_eq!(call(1), Ok(true));
        assert!((1..10).all(|_| call(1) == Ok(false)));
        assert!(matches!(call(2), Err(AccountError::TooFast(_))));
    }

    #[test]
    fn a_chain_is_kept_until_the_latest_deadline_seen() {
        let (accounts, peer) = (Accounts::new(10), Arc::default());
        let edge = (id("a"), id("b"));
        accounts
            .charge_edge(&key(1), (&edge.0, &edge.1), 9, 100, &peer)
            .unwrap();
        accounts
            .charge_edge(&key(1), (&edge.0, &edge.1), 9, 200, &peer)
            .unwrap();
        accounts
            .charge_edge(&key(1), (&edge.0, &edge.1), 9, 150, &peer)
            .unwrap();
        accounts.sweep(Part::All, 199);
        assert_eq!(accounts.chains.len(), 1);
        accounts.sweep(Part::All, 200);
        assert_eq!((accounts.chains.len(), accounts.quota.used()), (0, 0));
    }

    #[test]
    fn case_13_a_hundred_thousand_fresh_keys_refill_nothing() {
        let (accounts, flooder, other) = (Accounts::new(1_000), Arc::default(), Arc::default());
        assert!((0..3).all(|_| accounts.charge_link(&[1; 32], 3, 100, &other).is_ok()));
        for n in 0..100_000_u32 {
            let mut prefix = [2; 32];
            prefix[..4].copy_from_slice(&n.to_be_bytes());
            let _ = accounts.charge_link(&prefix, 1, 100, &flooder);
            let fresh = ChainKey {
                originator: id("flooder"),
                id: ChainId::from_bytes(prefix[..16].try_into().unwrap()),
            };
            let _ = accounts.charge_edge(&fresh, (&id("flooder"), &id("b")), 1, 100, &flooder);
        }
        assert_eq!(
            accounts.charge_link(&[1; 32], 3, 100, &other),
            Err(AccountError::Limit)
        );
        assert!(
            accounts.quota.used() <= 504,
            "{} used",
            accounts.quota.used()
        );
    }

    #[test]
    fn case_13_one_peers_flood_leaves_the_share_of_another() {
        let (accounts, flooder, other) = (Accounts::new(100), Arc::default(), Arc::default());
        let charge = |n: u8, peer| accounts.charge_link(&[n; 32], 1, 100, peer);
        assert_eq!(
            (0..200).filter(|n| charge(*n, &flooder).is_ok()).count(),
            50
        );
        assert_eq!(charge(201, &flooder), Err(AccountError::NoRoom));
        assert_eq!(charge(202, &other), Ok(()));
    }
}
