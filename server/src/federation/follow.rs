//! Follows the bundles of foreign trust domains: one task owns when each is looked at, a few fetches run beside it.
//!
//! A relationship that is new or changed is followed at once. A fetch whose relationship has changed meanwhile counts for
//! nothing. A bundle that is fetched replaces the stored one whole if it says anything else; who has the endpoint's key
//! decides what the bundle is, so that there is nothing to compare sequence numbers for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
use crate::limits;
use crate::metrics::{FEDERATION, label};
use crate::registry::{Behind, Page, Registry};

/// The share by which looks are spread, so that many servers don't come at once.
const SPREAD: f64 = 0.1;

/// Why a bundle was not refreshed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// There is no relationship with the trust domain.
    #[error("no relationship with trust domain {0:?}")]
    Unknown(String),
    /// It could not be fetched or stored.
    #[error("{0}")]
    Failed(String),
    /// The server is going down.
    #[error("the server is stopping")]
    Stopped,
}

type Reply = oneshot::Sender<Result<(), RefreshError>>;

/// Asks for a look at a bundle now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher(mpsc::Sender<(TrustDomain, Reply)>);

impl Refresher {
    /// Looks at the bundle of a trust domain now, and answers when that is done.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn refresh(&self, td: TrustDomain) -> Result<(), RefreshError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send((td, reply)).await;
        sent.map_err(|_| RefreshError::Stopped)?;
        answer.await.unwrap_or(Err(RefreshError::Stopped))
    }
}

/// Why a look at a bundle came to nothing.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the bundle was fetched and could not be stored")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Behind(#[from] Behind),
}

/// Follows foreign bundles while it runs.
#[derive(Debug)]
pub struct Follower {
    trust_domain: TrustDomain,
    fixed: Vec<Relationship>,
    store: Store,
    registry: Registry,
    fetcher: Fetcher,
    requests: mpsc::Receiver<(TrustDomain, Reply)>,
    followed: BTreeMap<TrustDomain, Followed>,
}

/// One trust domain whose bundle is followed.
#[derive(Debug)]
struct Followed {
    relationship: Relationship,
    state: State,
    /// Whether the last look failed because there was nothing to verify the endpoint with.
    unverifiable: bool,
    /// Who waits for a look that begins after they asked.
    waiting: Vec<Reply>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next look is then.
    Due(Instant),
    Running,
}

/// A look that is over.
struct Look {
    relationship: Relationship,
    fetched: Result<Bundle, FetchError>,
    waiting: Vec<Reply>,
}

impl Follower {
    /// Follows the relationships of the configuration and those of the store, for a server of this trust domain.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        fixed: Vec<Relationship>,
        store: Store,
        registry: Registry,
        key_exchange: KeyExchange,
        clock: SharedClock,
    ) -> (Self, Refresher) {
        let (sender, requests) = mpsc::channel(limits::MAX_BUNDLE_REFRESHES);
        let fetcher = Fetcher::new(Arc::new(registry.clone()), key_exchange, clock);
        let follower = Self {
            trust_domain,
            fixed,
            store,
            registry,
            fetcher,
            requests,
            followed: BTreeMap::new(),
        };
        (follower, Refresher(sender))
    }

    /// Follows until `stop`.
    ///
    /// # Errors
    /// Never by itself: failures are logged and tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut changes = self.registry.federation_changes();
        let mut looks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            self.adopt();
            self.start_due(&mut looks);
            let next = self.next_due(looks.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = changes.changed() => if changed.is_err() {
                    // The registry's end is told elsewhere.
                    stop.cancelled().await;
                },
                // A fetch that panicked leaves a bundle that nobody looks at: the server's end rather than that.
                Some(look) = looks.join_next() => self.finish(look?).await,
                Some((td, reply)) = self.requests.recv() => self.ask(&td, reply),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Takes over the relationships as they are now.
    fn adopt(&mut self) {
        let mut wanted: HashMap<TrustDomain, Relationship> = HashMap::new();
        for record in self.registry.relationships(Page::All) {
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
                tracing::info!(trust_domain = %td, "The bundle is no longer followed");
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
                    if followed.unverifiable && verifiable(&followed.relationship, &self.registry) {
                        followed.unverifiable = false;
                        followed.hurry();
                    }
                }
            }
        }
    }

    fn ask(&mut self, td: &TrustDomain, reply: Reply) {
        match self.followed.get_mut(td) {
            // Nobody waits any more if that fails.
            None => drop(reply.send(Err(RefreshError::Unknown(td.to_string())))),
            Some(followed) if followed.waiting.len() >= limits::MAX_BUNDLE_REFRESHES => {
                let error = "too many others wait for the same; try again".to_owned();
                drop(reply.send(Err(RefreshError::Failed(error))));
            }
            Some(followed) => {
                followed.waiting.push(reply);
                followed.hurry();
            }
        }
    }

    /// Starts the looks whose time has come, those that somebody waits for first.
    fn start_due(&mut self, looks: &mut JoinSet<Look>) {
        let now = Instant::now();
        let mut due: Vec<_> = self
            .followed
            .values_mut()
            .filter(|followed| matches!(followed.state, State::Due(at) if at <= now))
            .collect();
        due.sort_by_key(|followed| followed.waiting.is_empty());
        let free = limits::MAX_BUNDLE_FETCHES.saturating_sub(looks.len());
        for followed in due.into_iter().take(free) {
            followed.state = State::Running;
            let relationship = followed.relationship.clone();
            let waiting = std::mem::take(&mut followed.waiting);
            let fetcher = self.fetcher.clone();
            looks.spawn(async move {
                let span = span!("refresh foreign bundle");
                let fetched = fetcher.fetch(&relationship).instrument(span).await;
                Look {
                    relationship,
                    fetched,
                    waiting,
                }
            });
        }
    }

    /// When the next look is due; none if all places are taken, as one that becomes free is noticed.
    fn next_due(&self, running: usize) -> Option<Instant> {
        if running >= limits::MAX_BUNDLE_FETCHES {
            return None;
        }
        let due = self
            .followed
            .values()
            .filter_map(|followed| match followed.state {
                State::Due(at) => Some(at),
                State::Running => None,
            });
        due.min()
    }

    async fn finish(&mut self, look: Look) {
        let Look {
            relationship,
            fetched,
            waiting,
        } = look;
        let td = &relationship.trust_domain;
        // What may have changed since: nothing is stored for a relationship that is no more.
        self.adopt();
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
            Ok(bundle) => keep(&self.store, &self.registry, bundle).await,
            Err(error) => Err(error.into()),
        };
        ::metrics::counter!(FEDERATION.name, "result" => label(&result)).increment(1);
        let stored = self.registry.bundle(td.as_str());
        let next = jittered(interval(stored.as_deref()), SPREAD);
        followed.unverifiable = matches!(&result, Err(FollowError::Fetch(FetchError::NoBundle(_))));
        followed.state = State::Due(Instant::now() + next);
        if !followed.waiting.is_empty() {
            followed.hurry();
        }
        if let Err(error) = &result {
            tracing::error!(trust_domain = %td, url = %relationship.url, cause = %Chain(error), again_in = ?next, "The bundle of a foreign trust domain could not be refreshed");
        }
        let told = result.map_err(|error| RefreshError::Failed(Chain(&error).to_string()));
        for reply in waiting {
            drop(reply.send(told.clone()));
        }
    }
}

impl Followed {
    /// To be looked at now.
    fn new(relationship: Relationship) -> Self {
        Self {
            relationship,
            state: State::Due(Instant::now()),
            unverifiable: false,
            waiting: Vec::new(),
        }
    }

    /// The next look is now, or as soon as the one that runs is over.
    fn hurry(&mut self) {
        if let State::Due(_) = self.state {
            self.state = State::Due(Instant::now());
        }
    }
}

fn verifiable(relationship: &Relationship, bundles: &Registry) -> bool {
    match &relationship.profile {
        EndpointProfile::Web => true,
        EndpointProfile::Spiffe(id) => bundles.bundle_of(id).is_some(),
    }
}

/// Stores a bundle, unless the stored one says the same.
async fn keep(store: &Store, registry: &Registry, bundle: Bundle) -> Result<(), FollowError> {
    let stored = registry.bundle(bundle.trust_domain.as_str());
    if stored.is_some_and(|stored| same(&stored, &bundle)) {
        return Ok(());
    }
    let written = store.bundle_set(&bundle).await?;
    // Whoever asked for it sees it afterwards.
    registry.reached(written.seq).await?;
    tracing::info!(
        trust_domain = %bundle.trust_domain,
        x509_authorities = bundle.x509_authorities.len(),
        jwt_authorities = bundle.jwt_authorities.len(),
        sequence_number = bundle.sequence_number,
        "The bundle of a foreign trust domain has changed"
    );
    Ok(())
}

/// Whether two bundles say the same. Sequence numbers are the peer's and say nothing by themselves.
fn same(stored: &Bundle, fetched: &Bundle) -> bool {
    let fetched = Bundle {
        sequence_number: stored.sequence_number,
        ..fetched.clone()
    };
    *stored == fetched
}
