//! What was verified before: prefixes of chains, and leaves with their keys.
//!
//! Bundles may change at any time. An entry counts only if the epoch in which its verification began is still the
//! current one when it is entered; a removed authority first ends the epoch and then drops the entries.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_identity::{KeyId, SpiffeId};

use crate::chain::{LinkKey, PrefixHash};
use crate::limits::{Capacity, Part, PeerState, Quota, Sharded};

/// A leaf whose certificate was verified.
#[derive(Debug)]
pub(crate) struct KnownLeaf {
    pub(crate) key: LinkKey,
    /// From when to when the certificate is valid, in Unix seconds.
    pub(crate) validity: RangeInclusive<u64>,
    /// For which part of that its path to an authority was verified.
    pub(crate) verified: RangeInclusive<u64>,
}

#[derive(Debug)]
struct LeafEntry {
    leaf: Arc<KnownLeaf>,
    owner: Arc<PeerState>,
}

#[derive(Debug)]
struct PrefixEntry {
    until: u64,
    signers: Box<[SpiffeId]>,
    owner: Arc<PeerState>,
}

/// The bundles' state that a verification relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// Whether no authority has been removed yet.
    pub(crate) const fn is_first(self) -> bool {
        self.0 == 0
    }
}

/// Both caches.
#[derive(Debug)]
pub(crate) struct Caches {
    epoch: AtomicU64,
    prefixes: Sharded<PrefixHash, PrefixEntry>,
    prefix_quota: Quota,
    leaves: Sharded<(SpiffeId, KeyId), LeafEntry>,
    leaf_quota: Quota,
}

impl Caches {
    pub(crate) fn new(capacity: &Capacity) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            prefixes: Sharded::default(),
            prefix_quota: Quota::new(capacity.prefixes),
            leaves: Sharded::default(),
            leaf_quota: Quota::new(capacity.leaves),
        }
    }

    /// To be asked before the first bundle is read.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Whether every signature of these links was checked.
    pub(crate) fn has_prefix(&self, prefix: &PrefixHash) -> bool {
        self.prefixes.shard(prefix).contains_key(prefix)
    }

    /// Enters a prefix all of whose signatures were checked. Without room it is checked again next time.
    pub(crate) fn add_prefix(
        &self,
        epoch: Epoch,
        prefix: PrefixHash,
        until: u64,
        signers: Box<[SpiffeId]>,
        owner: &Arc<PeerState>,
    ) {
        let mut shard = self.prefixes.shard(&prefix);
        if epoch != self.epoch()
            || shard.contains_key(&prefix)
            || !self.prefix_quota.claim(&owner.prefixes)
        {
            return;
        }
        shard.insert(
            prefix,
            PrefixEntry {
                until,
                signers,
                owner: Arc::clone(owner),
            },
        );
    }

    pub(crate) fn leaf(&self, id: &SpiffeId, kid: KeyId) -> Option<Arc<KnownLeaf>> {
        let key = (id.clone(), kid);
        self.leaves
            .shard(&key)
            .get(&key)
            .map(|entry| Arc::clone(&entry.leaf))
    }

    /// Enters a verified leaf, in place of what was known of the same ID and key.
    pub(crate) fn add_leaf(
        &self,
        epoch: Epoch,
        (id, kid): (&SpiffeId, KeyId),
        leaf: &Arc<KnownLeaf>,
        owner: &Arc<PeerState>,
    ) {
        let key = (id.clone(), kid);
        let mut shard = self.leaves.shard(&key);
        if epoch != self.epoch() {
            return;
        }
        if let Some(entry) = shard.get_mut(&key) {
            entry.leaf = Arc::clone(leaf);
        } else if self.leaf_quota.claim(&owner.leaves) {
            shard.insert(
                key,
                LeafEntry {
                    leaf: Arc::clone(leaf),
                    owner: Arc::clone(owner),
                },
            );
        }
    }

    /// Drops everything that relies on the bundle of this trust domain.
    pub(crate) fn forget(&self, trust_domain: &str) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.drop_where(
            Part::All,
            |entry| {
                entry
                    .signers
                    .iter()
                    .any(|id| id.trust_domain_name() == trust_domain)
            },
            |(id, _), _| id.trust_domain_name() == trust_domain,
        );
    }

    /// Drops what is of no use any more at `now`.
    pub(crate) fn sweep(&self, part: Part, now: u64) {
        self.drop_where(
            part,
            |entry| entry.until <= now,
            |_, entry| *entry.leaf.validity.end() < now,
        );
    }

    fn drop_where(
        &self,
        part: Part,
        prefix: impl Fn(&PrefixEntry) -> bool,
        leaf: impl Fn(&(SpiffeId, KeyId), &LeafEntry) -> bool,
    ) {
        self.prefixes.retain(part, |_, entry| {
            let goes = prefix(entry);
            if goes {
                self.prefix_quota.release(&entry.owner.prefixes, 1);
            }
            !goes
        });
        self.leaves.retain(part, |key, entry| {
            let goes = leaf(key, entry);
            if goes {
                self.leaf_quota.release(&entry.owner.leaves, 1);
            }
            !goes
        });
    }

    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.prefixes.len(), self.leaves.len())
    }
}
