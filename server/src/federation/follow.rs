//! Follows the bundles of foreign trust domains: one task owns the schedule, a few fetches run beside it.
//!
//! A new or changed relationship is fetched at once. The result of a fetch is discarded if its relationship changed
//! meanwhile. A fetched bundle that differs replaces the stored one whole. Sequence numbers are not compared: the
//! authenticated endpoint decides what the bundle is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use countersign_daemon::metrics::result_label;
use countersign_daemon::trace::span;
use countersign_identity::bundle::Bundles;
use countersign_identity::federation::{EndpointProfile, Relationship};
use countersign_identity::tls::KeyExchange;
use countersign_identity::{Bundle, TrustDomain};
use countersign_store::{Store, StoreError};
use countersign_transport::SharedClock;
use countersign_transport::backoff::jittered;
use countersign_transport::error::{BoxError, Chain};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::fetch::{FetchError, Fetcher};
use super::schedule::interval;
use crate::index::{Behind, Index, Page};
use crate::limits;
use crate::metrics::FEDERATION;

/// The jitter of the interval, so that many servers don't fetch at the same moment.
const SPREAD: f64 = 0.1;

/// Why a bundle was not refreshed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RefreshError {
    /// There is no relationship with the trust domain.
    #[error("no relationship with trust domain {0:?}")]
    Unknown(String),
    /// It could not be fetched or stored.
    #[error("{}", Chain(&**.0))]
    Failed(Arc<FollowError>),
    /// Too many callers wait for the same bundle.
    #[error("too many others wait for the same; try again")]
    Crowded,
    /// The server is going down.
    #[error("the server is stopping")]
    Stopped,
}

type Reply = oneshot::Sender<Result<(), RefreshError>>;

/// Requests a fetch out of turn. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Refresher(mpsc::Sender<(TrustDomain, Reply)>);

impl Refresher {
    /// Fetches the bundle of a trust domain now, and returns when that is done.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub(crate) async fn refresh(&self, td: TrustDomain) -> Result<(), RefreshError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send((td, reply)).await;
        sent.map_err(|_| RefreshError::Stopped)?;
        answer.await.unwrap_or(Err(RefreshError::Stopped))
    }
}

/// Why a fetch did not refresh the bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the bundle was fetched and could not be stored")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Behind(#[from] Behind),
}

/// Follows foreign bundles while it runs.
#[derive(Debug)]
pub(crate) struct Follower {
    trust_domain: TrustDomain,
    fixed: Vec<Relationship>,
    store: Store,
    index: Index,
    fetcher: Fetcher,
    requests: mpsc::Receiver<(TrustDomain, Reply)>,
    followed: BTreeMap<TrustDomain, Followed>,
}

/// One trust domain whose bundle is followed.
#[derive(Debug)]
struct Followed {
    relationship: Relationship,
    state: FetchState,
    /// Whether the last fetch failed because no bundle was stored to verify the endpoint with.
    unverifiable: bool,
    /// Requests for a fetch that begins after they came.
    waiting: Vec<Reply>,
}

#[derive(Clone, Copy, Debug)]
enum FetchState {
    /// The next fetch begins then.
    Due(Instant),
    Running,
}

/// A fetch that has ended.
struct Fetched {
    relationship: Relationship,
    result: Result<Bundle, FetchError>,
    waiting: Vec<Reply>,
}

impl Follower {
    /// Follows the relationships of the configuration and those of the store, for a server of this trust domain.
    #[must_use]
    pub(crate) fn new(
        trust_domain: TrustDomain,
        fixed: Vec<Relationship>,
        store: Store,
        index: Index,
        key_exchange: KeyExchange,
        clock: SharedClock,
    ) -> (Self, Refresher) {
        let (sender, requests) = mpsc::channel(limits::MAX_BUNDLE_REFRESHES);
        let fetcher = Fetcher::new(Arc::new(index.clone()), key_exchange, clock);
        let follower = Self {
            trust_domain,
            fixed,
            store,
            index,
            fetcher,
            requests,
            followed: BTreeMap::new(),
        };
        (follower, Refresher(sender))
    }

    /// Follows until `stop`.
    ///
    /// # Errors
    /// A fetch panicked. Failures are logged and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut changes = self.index.federation_changes();
        let mut fetches = JoinSet::new();
        loop {
            changes.borrow_and_update();
            self.reconcile();
            self.start_due(&mut fetches);
            let next = self.next_due(fetches.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = changes.changed() => if changed.is_err() {
                    // The task of the index reports its end itself.
                    stop.cancelled().await;
                },
                // After a panic this bundle would never be fetched again: rather stop the server.
                Some(fetched) = fetches.join_next() => self.finish(fetched?).await,
                Some((td, reply)) = self.requests.recv() => self.ask(&td, reply),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Brings `followed` up to the relationships as they are now.
    fn reconcile(&mut self) {
        let mut wanted: HashMap<TrustDomain, Relationship> = HashMap::new();
        for record in self.index.relationships(Page::All) {
            wanted.insert(record.value.trust_domain.clone(), record.value.clone());
        }
        for relationship in &self.fixed {
            wanted.insert(relationship.trust_domain.clone(), relationship.clone());
        }
        // This server's own bundle comes from its own authority alone.
        wanted.remove(&self.trust_domain);
        self.followed.retain(|td, followed| {
            let kept = wanted.contains_key(td);
            if !kept {
                for reply in followed.waiting.drain(..) {
                    drop(reply.send(Err(RefreshError::Unknown(td.to_string()))));
                }
                tracing::info!(trust_domain = %td, "Stopped following the bundle");
            }
            kept
        });
        for (td, relationship) in wanted {
            match self.followed.get_mut(&td) {
                None => {
                    tracing::info!(trust_domain = %td, url = %relationship.url, profile = relationship.profile.as_str(), "The bundle is followed");
                    self.followed.insert(td, Followed::new(relationship));
                }
                Some(followed) if followed.relationship != relationship => {
                    tracing::info!(trust_domain = %td, url = %relationship.url, profile = relationship.profile.as_str(), "The bundle is followed from elsewhere");
                    let waiting = std::mem::take(&mut followed.waiting);
                    *followed = Followed {
                        waiting,
                        ..Followed::new(relationship)
                    };
                }
                Some(followed) => {
                    if followed.unverifiable && verifiable(&followed.relationship, &self.index) {
                        followed.unverifiable = false;
                        followed.hurry();
                    }
                }
            }
        }
    }

    fn ask(&mut self, td: &TrustDomain, reply: Reply) {
        match self.followed.get_mut(td) {
            // Sending fails if the caller has gone.
            None => drop(reply.send(Err(RefreshError::Unknown(td.to_string())))),
            Some(followed) if followed.waiting.len() >= limits::MAX_BUNDLE_REFRESHES => {
                drop(reply.send(Err(RefreshError::Crowded)));
            }
            Some(followed) => {
                followed.waiting.push(reply);
                followed.hurry();
            }
        }
    }

    /// Starts the fetches that are due, requested ones first.
    fn start_due(&mut self, fetches: &mut JoinSet<Fetched>) {
        let now = Instant::now();
        let mut due: Vec<_> = self
            .followed
            .values_mut()
            .filter(|followed| matches!(followed.state, FetchState::Due(at) if at <= now))
            .collect();
        due.sort_by_key(|followed| followed.waiting.is_empty());
        let free = limits::MAX_BUNDLE_FETCHES.saturating_sub(fetches.len());
        for followed in due.into_iter().take(free) {
            followed.state = FetchState::Running;
            let relationship = followed.relationship.clone();
            let waiting = std::mem::take(&mut followed.waiting);
            let fetcher = self.fetcher.clone();
            fetches.spawn(async move {
                let span = span!("refresh foreign bundle");
                let result = fetcher.fetch(&relationship).instrument(span).await;
                Fetched {
                    relationship,
                    result,
                    waiting,
                }
            });
        }
    }

    /// When the next fetch is due; none while all slots are taken, since the end of a fetch wakes the task too.
    fn next_due(&self, running: usize) -> Option<Instant> {
        if running >= limits::MAX_BUNDLE_FETCHES {
            return None;
        }
        let due = self
            .followed
            .values()
            .filter_map(|followed| match followed.state {
                FetchState::Due(at) => Some(at),
                FetchState::Running => None,
            });
        due.min()
    }

    async fn finish(&mut self, fetched: Fetched) {
        let Fetched {
            relationship,
            result: fetched,
            waiting,
        } = fetched;
        let td = &relationship.trust_domain;
        // The relationship may be gone or changed by now: then nothing is stored, and the requests wait for the next
        // fetch.
        self.reconcile();
        let Some(followed) = self
            .followed
            .get_mut(td)
            .filter(|followed| followed.relationship == relationship)
        else {
            for reply in waiting {
                self.ask(td, reply);
            }
            return;
        };
        let result = match fetched {
            Ok(bundle) => store_bundle(&self.store, &self.index, bundle).await,
            Err(error) => Err(error.into()),
        };
        ::metrics::counter!(FEDERATION.name, "result" => result_label(&result)).increment(1);
        let stored = self.index.bundle(td.as_str());
        let next = jittered(interval(stored.as_deref()), SPREAD);
        followed.unverifiable = matches!(&result, Err(FollowError::Fetch(FetchError::NoBundle(_))));
        followed.state = FetchState::Due(Instant::now() + next);
        if !followed.waiting.is_empty() {
            followed.hurry();
        }
        if let Err(error) = &result {
            tracing::error!(trust_domain = %td, url = %relationship.url, error = %Chain(error), again_in = ?next, "The bundle of a foreign trust domain could not be refreshed");
        }
        let outcome = result.map_err(|error| RefreshError::Failed(Arc::new(error)));
        for reply in waiting {
            drop(reply.send(outcome.clone()));
        }
    }
}

impl Followed {
    fn new(relationship: Relationship) -> Self {
        Self {
            relationship,
            state: FetchState::Due(Instant::now()),
            unverifiable: false,
            waiting: Vec::new(),
        }
    }

    /// Makes the next fetch due now; while one runs, it is made due when that ends.
    fn hurry(&mut self) {
        if let FetchState::Due(_) = self.state {
            self.state = FetchState::Due(Instant::now());
        }
    }
}

fn verifiable(relationship: &Relationship, bundles: &Index) -> bool {
    match &relationship.profile {
        EndpointProfile::Web => true,
        EndpointProfile::Spiffe(id) => bundles.bundle_of(id).is_some(),
    }
}

/// Stores a bundle if it differs from the stored one.
async fn store_bundle(store: &Store, index: &Index, bundle: Bundle) -> Result<(), FollowError> {
    let stored = index.bundle(bundle.trust_domain.as_str());
    if stored.is_some_and(|stored| is_same(&stored, &bundle)) {
        return Ok(());
    }
    let bundle = store.bundle_set(&bundle).await?;
    // A caller that requested the refresh reads the new bundle afterwards.
    let bundle = index.visible(bundle).await?;
    tracing::info!(
        trust_domain = %bundle.trust_domain,
        x509_authorities = bundle.x509_authorities.len(),
        jwt_authorities = bundle.jwt_authorities.len(),
        sequence_number = bundle.sequence_number,
        "The bundle of a foreign trust domain has changed"
    );
    Ok(())
}

/// Whether two bundles differ in nothing but the sequence number, which is the peer's own and not compared.
fn is_same(stored: &Bundle, fetched: &Bundle) -> bool {
    let fetched = Bundle {
        sequence_number: stored.sequence_number,
        ..fetched.clone()
    };
    *stored == fetched
}
