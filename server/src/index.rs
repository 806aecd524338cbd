//! The index that answers every read: list, filter, page, count, authorise, crawl.
//!
//! One task follows the store's changes and applies them in place; readers hold the lock for one lookup and never across
//! an await. A handler that wrote opens the store's answer with [`Index::visible`] before it answers itself, so that the
//! next caller reads the write.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_identity::bundle::{BundleSet, Bundles};
use countersign_identity::federation::Relationship;
use countersign_identity::{Bundle, Entry, EntryId, Node, SpiffeId, TrustDomain, UnixTime};
use countersign_store::backend::Seq;
use countersign_store::{Changed, Feed, Pending, Record, Store, StoreError, Visibility};
use countersign_transport::backoff::Backoff;
use countersign_transport::error::Chain;
use tokio_util::sync::CancellationToken;

use crate::limits;
use invalidation::{Invalidated, Invalidation};
use subscribers::{Subscribers, Subscription};
use tables::{ChangeObserver, Limit, Tables};

mod crawl;
mod filter;
mod invalidation;
mod subscribers;
mod tables;

pub(crate) use filter::{EntryFilter, Match, NodeFilter};

/// An entry, with the commit that created it.
pub(crate) type EntryRecord = Arc<Record<Entry>>;
/// A node, with the commit that created it.
pub(crate) type NodeRecord = Arc<Record<Node>>;
/// A bundle, with the commit that created it.
pub(crate) type BundleRecord = Arc<Record<Bundle>>;
/// A relationship, with the commit that created it.
pub(crate) type RelationshipRecord = Arc<Record<Relationship>>;

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// The whole list.
    All,
    /// At most this many objects that were created after this commit.
    After(Seq, usize),
}

/// The index does not show a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Behind {
    /// The index no longer follows the store, because the store failed for good.
    #[error("the server can't read its store any more; see its log")]
    Stopped,
    /// The store can't be read for the moment.
    #[error(
        "the change was made but can't be read back for now, the server's store is failing; see its log and look again"
    )]
    Late,
}

/// The first and the longest backoff while the store can't be read.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The index. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Index(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    tables: RwLock<Tables>,
    /// Read on every handshake, without the lock.
    bundles: ArcSwap<BundleSet>,
    reached: tokio::sync::watch::Sender<Seq>,
    federation: tokio::sync::watch::Sender<()>,
    subscribers: Subscribers,
    stopped: CancellationToken,
}

impl Index {
    /// Loads everything from the store. [`Index::follow`] must then run for as long as the index is used.
    ///
    /// # Errors
    /// The store failed, or holds something that makes no sense.
    pub(crate) async fn load(store: Store) -> Result<Self, StoreError> {
        let (tables, seq) = load(&store).await?;
        let bundles = ArcSwap::from_pointee(tables.bundle_set());
        Ok(Self(Arc::new(Shared {
            store,
            tables: RwLock::new(tables),
            bundles,
            reached: tokio::sync::watch::Sender::new(seq),
            federation: tokio::sync::watch::Sender::new(()),
            subscribers: Subscribers::default(),
            stopped: CancellationToken::new(),
        })))
    }

    /// Applies the store's changes as they come, until the store fails for good; errors that may pass are retried. When the
    /// future is dropped, waits for a commit end with [`Behind::Stopped`].
    pub(crate) fn follow(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let index = self.clone();
        let stop = self.0.stopped.clone().drop_guard();
        async move {
            let _stop = stop;
            let mut head = index.0.store.head();
            let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
            loop {
                let target = *head.borrow_and_update();
                match index.catch_up(target).await {
                    Ok(()) => backoff.reset(),
                    Err(error) if error.is_transient() => {
                        tracing::warn!(error = %Chain(&error), "Could not read changes from the store; trying again");
                        backoff.wait().await;
                        continue;
                    }
                    Err(error) => return error,
                }
                if head.changed().await.is_err() {
                    return index.0.store.broken().await.into();
                }
            }
        }
    }

    /// Waits until the index shows a write, and opens it.
    ///
    /// # Errors
    /// The index has stopped following the store, or can't read it for the moment.
    pub(crate) async fn visible<T>(&self, pending: Pending<T>) -> Result<T, Behind> {
        pending.visible_to(self).await
    }

    /// One entry.
    #[must_use]
    pub(crate) fn entry(&self, id: &str) -> Option<EntryRecord> {
        self.read(|tables| tables.entries.by_id(id).cloned())
    }

    /// The entries that match, in the order of creation.
    #[must_use]
    pub(crate) fn entries(&self, filter: &EntryFilter, page: Page) -> Vec<EntryRecord> {
        self.list(page, |tables, after, limit| {
            tables.entries.after(filter, after, limit)
        })
    }

    /// How many entries match.
    #[must_use]
    pub(crate) fn count_entries(&self, filter: &EntryFilter) -> usize {
        if filter.is_empty() {
            return self.read(|tables| tables.entries.len());
        }
        self.entries(filter, Page::All).len()
    }

    /// The entry with the same SPIFFE ID, parent and selectors as this one, if there is one.
    #[must_use]
    pub(crate) fn similar_entry(&self, entry: &Entry) -> Option<EntryRecord> {
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
    pub(crate) fn expired_entries(&self, now: UnixTime) -> Vec<EntryId> {
        self.read(|tables| tables.entries.expired(now))
    }

    /// The entries whose SVIDs this node agent may have, in no particular order.
    #[must_use]
    pub(crate) fn authorized_entries(&self, agent: &SpiffeId) -> Vec<EntryRecord> {
        self.read(|tables| crawl::descendants(tables, agent))
    }

    /// The entry of this ID, if this node agent may have its SVID.
    #[must_use]
    pub(crate) fn authorized_entry(&self, agent: &SpiffeId, entry: &str) -> Option<EntryRecord> {
        self.read(|tables| {
            let entry = tables.entries.by_id(entry)?;
            crawl::has_ancestor(tables, entry, agent).then(|| Arc::clone(entry))
        })
    }

    /// Whether an entry makes this ID an admin.
    #[must_use]
    pub(crate) fn is_admin(&self, id: &SpiffeId) -> bool {
        self.read(|tables| tables.entries.of_id(id).any(|entry| entry.value.admin))
    }

    /// Whether an entry makes this ID a downstream server.
    #[must_use]
    pub(crate) fn is_downstream(&self, id: &SpiffeId) -> bool {
        self.read(|tables| tables.entries.of_id(id).any(|entry| entry.value.downstream))
    }

    /// Subscribes to changes that concern this node agent.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "Node/Watch, which pushes policy, will be its caller"
        )
    )]
    pub(crate) fn subscribe(&self, agent: &SpiffeId) -> Subscription {
        self.0.subscribers.subscribe(agent)
    }

    /// One node.
    #[must_use]
    pub(crate) fn node(&self, id: &SpiffeId) -> Option<NodeRecord> {
        self.read(|tables| tables.nodes.by_id(id).cloned())
    }

    /// The nodes that match, in the order of their first attestation.
    #[must_use]
    pub(crate) fn nodes(&self, filter: &NodeFilter, page: Page) -> Vec<NodeRecord> {
        self.list(page, |tables, after, limit| {
            tables.nodes.after(filter, after, limit)
        })
    }

    /// How many nodes match.
    #[must_use]
    pub(crate) fn count_nodes(&self, filter: &NodeFilter) -> usize {
        if *filter == NodeFilter::default() {
            return self.read(|tables| tables.nodes.len());
        }
        self.nodes(filter, Page::All).len()
    }

    /// One bundle.
    #[must_use]
    pub(crate) fn bundle_record(&self, td: &TrustDomain) -> Option<BundleRecord> {
        self.read(|tables| tables.bundles.by_id(td).cloned())
    }

    /// All bundles, in the order of creation.
    #[must_use]
    pub(crate) fn bundles(&self, page: Page) -> Vec<BundleRecord> {
        self.list(page, |tables, after, limit| {
            tables.bundles.after(after, limit)
        })
    }

    /// How many bundles there are.
    #[must_use]
    pub(crate) fn count_bundles(&self) -> usize {
        self.read(|tables| tables.bundles.len())
    }

    /// One relationship with a foreign trust domain.
    #[must_use]
    pub(crate) fn relationship(&self, td: &TrustDomain) -> Option<RelationshipRecord> {
        self.read(|tables| tables.relationships.by_id(td).cloned())
    }

    /// All relationships, in the order of creation.
    #[must_use]
    pub(crate) fn relationships(&self, page: Page) -> Vec<RelationshipRecord> {
        self.list(page, |tables, after, limit| {
            tables.relationships.after(after, limit)
        })
    }

    /// Signals whenever relationships or bundles have changed.
    #[must_use]
    pub(crate) fn federation_changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.federation.subscribe()
    }

    /// Brings the index up to at least this commit.
    async fn catch_up(&self, target: Seq) -> Result<(), StoreError> {
        let mut at = *self.0.reached.borrow();
        while at < target {
            let invalidated;
            (at, invalidated) = match self.0.store.changed(at).await? {
                Feed::Changed { through, objects } => (through, self.apply(objects)),
                Feed::TooOld => {
                    let (tables, seq) = load(&self.0.store).await?;
                    self.0.bundles.store(Arc::new(tables.bundle_set()));
                    *self
                        .0
                        .tables
                        .write()
                        .unwrap_or_else(PoisonError::into_inner) = tables;
                    self.0.federation.send_replace(());
                    (seq, Invalidated::everything())
                }
            };
            self.0.reached.send_replace(at);
            self.0.subscribers.wake(&invalidated);
        }
        Ok(())
    }

    /// Applies changes, and finds the nodes that they invalidate if there are subscribers.
    fn apply(&self, objects: Vec<Changed>) -> Invalidated {
        let bundles = objects
            .iter()
            .any(|object| matches!(object, Changed::Bundle(..)));
        let federation = bundles
            || objects
                .iter()
                .any(|object| matches!(object, Changed::Relationship(..)));
        let mut tables = self
            .0
            .tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: who subscribes later reads these changes, as a subscriber reads after it subscribed.
        let invalidated = if self.0.subscribers.is_empty() {
            apply_all(&mut tables, objects, &mut ());
            Invalidated::default()
        } else {
            let mut invalidation = Invalidation::default();
            apply_all(&mut tables, objects, &mut invalidation);
            invalidation.finish()
        };
        if bundles {
            self.0.bundles.store(Arc::new(tables.bundle_set()));
        }
        drop(tables);
        if federation {
            self.0.federation.send_replace(());
        }
        invalidated
    }

    fn read<T>(&self, f: impl FnOnce(&Tables) -> T) -> T {
        f(&self.0.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a list in portions, so that the lock is never held for long.
    fn list<T>(
        &self,
        page: Page,
        portion: impl Fn(&Tables, Seq, Limit) -> tables::Portion<T>,
    ) -> Vec<T> {
        let (mut after, size) = match page {
            Page::All => (Seq::ZERO, usize::MAX),
            Page::After(after, size) => (after, size),
        };
        let mut found = Vec::new();
        loop {
            let limit = Limit {
                candidates: limits::INDEX_PORTION,
                wanted: size - found.len(),
            };
            let portion = self.read(|tables| portion(tables, after, limit));
            found.extend(portion.found);
            after = match portion.more_after {
                Some(last) if found.len() < size => last,
                _ => return found,
            };
        }
    }
}

impl Visibility for Index {
    type Error = Behind;

    async fn reached(&self, seq: Seq) -> Result<(), Behind> {
        let mut reached = self.0.reached.subscribe();
        tokio::select! {
            biased;
            shown = reached.wait_for(|shown| *shown >= seq) => shown.map(drop).map_err(|_| Behind::Stopped),
            () = self.0.stopped.cancelled() => Err(Behind::Stopped),
            () = tokio::time::sleep(limits::INDEX_WAIT) => Err(Behind::Late),
        }
    }
}

impl Bundles for Index {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.bundles.load().bundle(trust_domain)
    }
}

/// Loads all tables, and the commit up to which they are complete.
async fn load(store: &Store) -> Result<(Tables, Seq), StoreError> {
    loop {
        let start = *store.head().borrow();
        let mut tables = Tables::default();
        load_table(
            |last: Option<EntryId>| async move { store.entries_page(last.as_ref()).await },
            |entry: &Entry| entry.id.clone(),
            |record| drop(tables.entries.put(record)),
        )
        .await?;
        load_table(
            |last: Option<SpiffeId>| async move { store.nodes_page(last.as_ref()).await },
            |node: &Node| node.id.clone(),
            |record| drop(tables.nodes.put(record)),
        )
        .await?;
        load_table(
            |last: Option<TrustDomain>| async move { store.bundles_page(last.as_ref()).await },
            |bundle: &Bundle| bundle.trust_domain.clone(),
            |record| drop(tables.bundles.put(record)),
        )
        .await?;
        load_table(
            |last: Option<TrustDomain>| async move { store.relationships_page(last.as_ref()).await },
            |relationship: &Relationship| relationship.trust_domain.clone(),
            |record| drop(tables.relationships.put(record)),
        )
        .await?;
        // The pages are of different moments: what changed meanwhile is applied on top.
        if let Some(seq) = apply_since(store, &mut tables, start).await? {
            return Ok((tables, seq));
        }
    }
}

fn apply_all(tables: &mut Tables, changes: Vec<Changed>, observer: &mut impl ChangeObserver) {
    for change in changes {
        tables.apply(change, observer);
    }
}

/// Reads a table of the store page by page.
async fn load_table<K, V, P>(
    page: impl Fn(Option<K>) -> P,
    key: impl Fn(&V) -> K,
    mut put: impl FnMut(Record<V>),
) -> Result<(), StoreError>
where
    P: Future<Output = Result<Vec<Record<V>>, StoreError>>,
{
    let mut last = None;
    loop {
        let records = page(last.take()).await?;
        let Some(record) = records.last() else {
            return Ok(());
        };
        last = Some(key(&record.value));
        records.into_iter().for_each(&mut put);
    }
}

/// Applies what changed since `start`; `None` if the feed does not reach back that far.
async fn apply_since(
    store: &Store,
    tables: &mut Tables,
    start: Seq,
) -> Result<Option<Seq>, StoreError> {
    let target = *store.head().borrow();
    let mut at = start;
    while at < target {
        match store.changed(at).await? {
            Feed::Changed { through, objects } => {
                apply_all(tables, objects, &mut ());
                at = through;
            }
            Feed::TooOld => return Ok(None),
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
pub(crate) mod tests;
