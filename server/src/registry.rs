//! The index that answers every read: list, filter, page, count, authorise, crawl.
//!
//! One task follows the store's changes and applies them in place; readers hold the lock for as long as a lookup takes
//! and never across an await. A handler that wrote waits for [`Registry::reached`] before it answers, so that whoever
//! asks next sees the write.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_identity::bundle::{BundleSet, Bundles};
use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, EntryId, Node, SpiffeId, TrustDomain, UnixTime};
use countersign_store::backend::Seq;
use countersign_store::{Changed, Feed, Record, Store, StoreError};
use countersign_transport::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use crate::limits;
use affected::Trace;
use index::{Index, Limit};
use watch::Watches;

pub mod affected;
mod crawl;
pub mod filter;
mod index;
pub mod sweep;
pub mod watch;

pub use affected::Affected;
pub use filter::{EntryFilter, Match, NodeFilter};
pub use watch::Watch;

/// An entry with its place in lists.
pub type EntryRecord = Arc<Record<Entry>>;
/// A node with its place in lists.
pub type NodeRecord = Arc<Record<Node>>;
/// A bundle with its place in lists.
pub type BundleRecord = Arc<Record<Bundle>>;
/// A relationship with its place in lists.
pub type RelationshipRecord = Arc<Record<Relationship>>;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Everything.
    All,
    /// At most so many, made after this commit.
    After(Seq, usize),
}

/// The index does not show a commit that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Behind {
    /// It does not follow the store any more, because the store failed for good.
    #[error("the server can't read its store any more; see its log")]
    Stopped,
    /// The store can't be read for the moment.
    #[error(
        "the change was made but can't be read back for now, the server's store is failing; see its log and look again"
    )]
    Late,
}

/// How soon a store that could not be read is tried again at first, and at last.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The index. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    index: RwLock<Index>,
    /// What verification of peers reads, on every handshake.
    bundles: ArcSwap<BundleSet>,
    reached: tokio::sync::watch::Sender<Seq>,
    federation: tokio::sync::watch::Sender<()>,
    watches: Watches,
    stopped: CancellationToken,
}

impl Registry {
    /// Loads everything from the store. [`Registry::follow`] must then run for as long as the registry is used.
    ///
    /// # Errors
    /// The store failed, or holds something that makes no sense.
    pub async fn load(store: Store) -> Result<Self, StoreError> {
        let (index, seq) = load(&store).await?;
        let bundles = ArcSwap::from_pointee(index.bundle_set());
        Ok(Self(Arc::new(Shared {
            store,
            index: RwLock::new(index),
            bundles,
            reached: tokio::sync::watch::Sender::new(seq),
            federation: tokio::sync::watch::Sender::new(()),
            watches: Watches::default(),
            stopped: CancellationToken::new(),
        })))
    }

    /// Applies the store's changes as they come, until the store fails for good; a fault that may pass is waited out. When
    /// the future is dropped, whoever waits for a commit is told.
    pub fn follow(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let registry = self.clone();
        let stop = self.0.stopped.clone().drop_guard();
        async move {
            let _stop = stop;
            let mut head = registry.0.store.head();
            let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
            loop {
                let target = *head.borrow_and_update();
                match registry.catch_up(target).await {
                    Ok(()) => backoff.reset(),
                    Err(error) if error.may_pass() => {
                        tracing::warn!(%error, "could not read what changed in the store; trying again");
                        backoff.wait().await;
                        continue;
                    }
                    Err(error) => return error,
                }
                if head.changed().await.is_err() {
                    return registry.0.store.broken().await.into();
                }
            }
        }
    }

    /// Waits until everything up to this commit can be read here.
    ///
    /// # Errors
    /// The registry has stopped following the store, or can't read it for the moment.
    pub async fn reached(&self, seq: Seq) -> Result<(), Behind> {
        let mut reached = self.0.reached.subscribe();
        tokio::select! {
            biased;
            there = reached.wait_for(|there| *there >= seq) => there.map(drop).map_err(|_| Behind::Stopped),
            () = self.0.stopped.cancelled() => Err(Behind::Stopped),
            () = tokio::time::sleep(limits::REGISTRY_WAIT) => Err(Behind::Late),
        }
    }

    /// One entry.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<EntryRecord> {
        self.read(|index| index.entries.by_id(id).cloned())
    }

    /// The entries that match, in the order in which they were made.
    #[must_use]
    pub fn entries(&self, filter: &EntryFilter, page: Page) -> Vec<EntryRecord> {
        self.list(page, |index, after, limit| {
            index.entries.after(filter, after, limit)
        })
    }

    /// How many entries match.
    #[must_use]
    pub fn count_entries(&self, filter: &EntryFilter) -> usize {
        if filter.is_empty() {
            return self.read(|index| index.entries.len());
        }
        self.entries(filter, Page::All).len()
    }

    /// The entry with the same SPIFFE ID, parent and selectors as this one, if there is one.
    #[must_use]
    pub fn similar_entry(&self, entry: &Entry) -> Option<EntryRecord> {
        let filter = EntryFilter {
            spiffe_id: Some(entry.spiffe_id.clone()),
            parent_id: Some(entry.parent_id.clone()),
            selectors: Some((Match::Exact, entry.selectors.clone())),
            ..EntryFilter::default()
        };
        self.entries(&filter, Page::After(Seq::ZERO, 1)).pop()
    }

    /// The entries that expired before this moment.
    #[must_use]
    pub fn expired_entries(&self, now: UnixTime) -> Vec<EntryId> {
        self.read(|index| index.entries.expired(now))
    }

    /// The entries whose SVIDs this node agent may have, in no particular order.
    #[must_use]
    pub fn authorized_entries(&self, agent: &SpiffeId) -> Vec<EntryRecord> {
        self.read(|index| crawl::down(index, agent))
    }

    /// The entry of this ID, if this node agent may have its SVID.
    #[must_use]
    pub fn authorized_entry(&self, agent: &SpiffeId, entry: &str) -> Option<EntryRecord> {
        self.read(|index| crawl::up(index, agent, index.entries.by_id(entry)?))
    }

    /// Whether an entry makes this ID an admin.
    #[must_use]
    pub fn is_admin(&self, id: &SpiffeId) -> bool {
        self.read(|index| index.entries.of_id(id).any(|entry| entry.value.admin))
    }

    /// Whether an entry makes this ID a downstream server.
    #[must_use]
    pub fn is_downstream(&self, id: &SpiffeId) -> bool {
        self.read(|index| index.entries.of_id(id).any(|entry| entry.value.downstream))
    }

    /// Tells from now on when something changes that concerns this node agent.
    #[must_use]
    pub fn watch(&self, agent: &SpiffeId) -> Watch {
        self.0.watches.open(agent)
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: &SpiffeId) -> Option<NodeRecord> {
        self.read(|index| index.nodes.by_id(id).cloned())
    }

    /// The nodes that match, in the order in which they were attested first.
    #[must_use]
    pub fn nodes(&self, filter: &NodeFilter, page: Page) -> Vec<NodeRecord> {
        self.list(page, |index, after, limit| {
            index.nodes.after(filter, after, limit)
        })
    }

    /// How many nodes match.
    #[must_use]
    pub fn count_nodes(&self, filter: &NodeFilter) -> usize {
        if *filter == NodeFilter::default() {
            return self.read(|index| index.nodes.len());
        }
        self.nodes(filter, Page::All).len()
    }

    /// One bundle.
    #[must_use]
    pub fn bundle_record(&self, td: &TrustDomain) -> Option<BundleRecord> {
        self.read(|index| index.bundles.by_id(td).cloned())
    }

    /// All bundles, in the order in which they were made.
    #[must_use]
    pub fn bundles(&self, page: Page) -> Vec<BundleRecord> {
        self.list(page, |index, after, limit| {
            index.bundles.after(after, limit)
        })
    }

    /// How many bundles there are.
    #[must_use]
    pub fn count_bundles(&self) -> usize {
        self.read(|index| index.bundles.len())
    }

    /// One relationship with a foreign trust domain.
    #[must_use]
    pub fn relationship(&self, td: &TrustDomain) -> Option<RelationshipRecord> {
        self.read(|index| index.relationships.by_id(td).cloned())
    }

    /// All relationships, in the order in which they were made.
    #[must_use]
    pub fn relationships(&self, page: Page) -> Vec<RelationshipRecord> {
        self.list(page, |index, after, limit| {
            index.relationships.after(after, limit)
        })
    }

    /// Moves whenever relationships or bundles have changed.
    #[must_use]
    pub fn federation_changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.federation.subscribe()
    }

    /// Brings the index up to at least this commit.
    async fn catch_up(&self, target: Seq) -> Result<(), StoreError> {
        let mut at = *self.0.reached.borrow();
        while at < target {
            let affected;
            (at, affected) = match self.0.store.changed(at).await? {
                Feed::Changed { through, objects } => (through, self.apply(objects)),
                Feed::TooOld => {
                    let (index, seq) = load(&self.0.store).await?;
                    self.0.bundles.store(Arc::new(index.bundle_set()));
                    *self.0.index.write().unwrap_or_else(PoisonError::into_inner) = index;
                    self.0.federation.send_replace(());
                    (seq, Affected::all())
                }
            };
            self.0.reached.send_replace(at);
            self.0.watches.tell(&affected);
        }
        Ok(())
    }

    /// Takes over changes, and finds out whom they concern.
    fn apply(&self, objects: Vec<Changed>) -> Affected {
        let bundles = objects
            .iter()
            .any(|object| matches!(object, Changed::Bundle(..)));
        let federation = bundles
            || objects
                .iter()
                .any(|object| matches!(object, Changed::Relationship(..)));
        let mut index = self.0.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut trace = Trace::default();
        for object in objects {
            index.apply(object, &mut trace);
        }
        if bundles {
            self.0.bundles.store(Arc::new(index.bundle_set()));
        }
        drop(index);
        if federation {
            self.0.federation.send_replace(());
        }
        trace.into_affected()
    }

    fn read<T>(&self, f: impl FnOnce(&Index) -> T) -> T {
        f(&self.0.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes through candidates in portions, so that the lock is never held for long.
    fn list<T>(
        &self,
        page: Page,
        portion: impl Fn(&Index, Seq, Limit) -> index::Portion<T>,
    ) -> Vec<T> {
        let (mut after, size) = match page {
            Page::All => (Seq::ZERO, usize::MAX),
            Page::After(after, size) => (after, size),
        };
        let mut found = Vec::new();
        loop {
            let limit = Limit {
                candidates: limits::REGISTRY_PORTION,
                wanted: size - found.len(),
            };
            let portion = self.read(|index| portion(index, after, limit));
            found.extend(portion.found);
            after = match portion.more_after {
                Some(last) if found.len() < size => last,
                _ => return found,
            };
        }
    }
}

impl Bundles for Registry {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.bundles.load().bundle(trust_domain)
    }
}

/// Everything in the store, and a commit up to which nothing is missing.
async fn load(store: &Store) -> Result<(Index, Seq), StoreError> {
    loop {
        let start = *store.head().borrow();
        let mut index = Index::default();
        let mut last = None;
        loop {
            let page = store.entries_page(last.as_ref()).await?;
            let Some(record) = page.last() else { break };
            last = Some(record.value.id.clone());
            for record in page {
                index.entries.put(record);
            }
        }
        let mut last = None;
        loop {
            let page = store.nodes_page(last.as_ref()).await?;
            let Some(record) = page.last() else { break };
            last = Some(record.value.id.clone());
            for record in page {
                index.nodes.put(record);
            }
        }
        let mut last = None;
        loop {
            let page = store.bundles_page(last.as_ref()).await?;
            let Some(record) = page.last() else { break };
            last = Some(record.value.trust_domain.clone());
            for record in page {
                index.bundles.put(record);
            }
        }
        let mut last = None;
        loop {
            let page = store.relationships_page(last.as_ref()).await?;
            let Some(record) = page.last() else { break };
            last = Some(record.value.trust_domain.clone());
            for record in page {
                index.relationships.put(record);
            }
        }
        // What changed while the pages were read.
        if let Some(seq) = settle(store, &mut index, start).await? {
            return Ok((index, seq));
        }
    }
}

/// Applies what changed since `start`; `None` if the store has forgotten some of it.
async fn settle(store: &Store, index: &mut Index, start: Seq) -> Result<Option<Seq>, StoreError> {
    let target = *store.head().borrow();
    let mut at = start;
    while at < target {
        match store.changed(at).await? {
            Feed::Changed { through, objects } => {
                // Nobody watches yet.
                let mut trace = Trace::default();
                for object in objects {
                    index.apply(object, &mut trace);
                }
                at = through;
            }
            Feed::TooOld => return Ok(None),
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests;
