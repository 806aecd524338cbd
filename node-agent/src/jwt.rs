//! JWT-SVIDs for workloads: fetched from the server on demand, and cached for half of their lifetime (wire contract,
//! F.4).
//!
//! Called by `api`. The server signs the token; this side checks only that its subject is the requested entry's.

mod cache;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use countersign_identity::jwt::Jwt;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_limits::KeyedSemaphore;
use countersign_proto::spire::api::server::svid::v1::NewJwtsvidRequest;
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use tokio::time::Instant;
use tonic::Code;

use crate::client::{CallError, ServerChannel, SharedClient, SharedClientError, failed};
use crate::entry::AuthorizedEntry;
use crate::limits;
use crate::rotation::{self, Moment};
use crate::signatures::Signatures;
use crate::sync::Feed;

pub(crate) use cache::{CachedJwt, JwtCache, JwtKey};

const FETCH: &str = "NewJWTSVID";

/// Wait between two attempts when the server refuses an entry that it may not know yet.
const PAUSE: Duration = Duration::from_secs(1);

/// A JWT-SVID, ready to be handed out.
#[derive(Clone, Debug)]
pub(crate) struct JwtSvid {
    /// The compact JWS.
    pub(crate) token: Arc<str>,
    /// Its subject.
    pub(crate) id: SpiffeId,
    /// When it was issued.
    pub(crate) issued_at: UnixTime,
    /// When it expires.
    pub(crate) expires_at: UnixTime,
}

/// Why there is no JWT-SVID.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum JwtError {
    /// This node has not been attested yet.
    #[error("the node agent is not connected to the server yet")]
    NotConnected,
    /// The server.
    #[error(transparent)]
    Server(#[from] SharedClientError),
    /// The server's answer.
    #[error("the server's answer is not usable: {0}")]
    Answer(String),
}

type Flights = Mutex<HashMap<JwtKey, Arc<tokio::sync::Mutex<()>>>>;

/// One caller's part in a fetch; the last one leaves nothing behind, however it ends.
struct Flight<'a> {
    under_way: &'a Flights,
    key: &'a JwtKey,
    mine: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Flight<'a> {
    fn of(under_way: &'a Flights, key: &'a JwtKey) -> Self {
        let mine = Arc::clone(lock(under_way).entry(key.clone()).or_default());
        Self {
            under_way,
            key,
            mine,
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(self.under_way);
        // Two are the table's own and this one.
        if Arc::strong_count(&self.mine) <= 2 {
            under_way.remove(self.key);
        }
    }
}

/// All JWT-SVIDs of this node. Clones share them.
#[derive(Clone)]
pub struct JwtSvids(Arc<JwtState>);

struct JwtState {
    server: OnceLock<SharedClient>,
    cache: Mutex<JwtCache>,
    /// Fetches in progress: concurrent requests for the same token share one fetch.
    under_way: Flights,
    /// Fetches in progress by user, so that no user can block the others.
    fetches: KeyedSemaphore<u32>,
    feed: Feed,
    clock: SharedClock,
}

impl JwtSvids {
    /// An empty cache of at most `most` tokens.
    #[must_use]
    pub fn new(most: usize, feed: Feed, clock: SharedClock) -> Self {
        Self(Arc::new(JwtState {
            server: OnceLock::new(),
            cache: Mutex::new(JwtCache::new(most)),
            under_way: Mutex::default(),
            fetches: KeyedSemaphore::new(limits::JWT_FETCHES_PER_USER),
            feed,
            clock,
        }))
    }

    /// Sets the server from which tokens are fetched. Only the first call has an effect.
    pub(crate) fn connect(&self, server: SharedClient) {
        drop(self.0.server.set(server));
    }

    /// The server, once it is known.
    #[must_use]
    pub(crate) fn server(&self) -> Option<&SharedClient> {
        self.0.server.get()
    }

    /// The number of cached tokens.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.cache().len()
    }

    /// Returns a token for this entry and these audiences, for a process of the user `uid`. A cached token is used for
    /// half of its lifetime. After that a new one is fetched; if that fails, the cached one is used until it expires. A
    /// token signed with a tainted key is never used again (wire contract, E.4).
    ///
    /// # Errors
    /// [`JwtError`].
    pub(crate) async fn get(
        &self,
        entry: &AuthorizedEntry,
        audience: &[String],
        uid: u32,
    ) -> Result<JwtSvid, JwtError> {
        let key = JwtKey::new(&entry.spiffe_id, audience);
        if let Some(held) = self.fresh(&key) {
            return Ok(held);
        }
        let flight = Flight::of(&self.0.under_way, &key);
        let _alone = flight.mine.lock().await;
        if let Some(held) = self.fresh(&key) {
            return Ok(held);
        }
        // The server limits the rate of the whole node, so one user may have only a few fetches in progress.
        let _permit = self.0.fetches.acquire(uid).await;
        self.fetch_and_keep(&key, entry, audience).await
    }

    fn fresh(&self, key: &JwtKey) -> Option<JwtSvid> {
        let now = self.now();
        self.usable(key)
            .filter(|held| !held.renew.has_come(now))
            .map(|held| held.svid)
    }

    /// The cached token, unless it has expired or its key is tainted.
    fn usable(&self, key: &JwtKey) -> Option<CachedJwt> {
        let held = self.cache().get(key)?;
        let snapshot = self.0.feed.current()?;
        let sound = snapshot
            .own_bundle()
            .jwt_authorities
            .iter()
            .any(|authority| authority.key_id == held.key_id && !authority.tainted);
        (sound && !held.end.has_come(self.now())).then_some(held)
    }

    async fn fetch_and_keep(
        &self,
        key: &JwtKey,
        entry: &AuthorizedEntry,
        audience: &[String],
    ) -> Result<JwtSvid, JwtError> {
        let kept = self.usable(key).map(|held| held.svid);
        match self.fetch(entry, audience, kept.is_some()).await {
            Ok(held) => {
                Signatures::Jwt.succeeded(1, usize::from(kept.is_some()));
                let svid = held.svid.clone();
                self.cache().put(key.clone(), held, self.now());
                Ok(svid)
            }
            Err(error) => {
                Signatures::Jwt.failed(1);
                let Some(kept) = kept else {
                    return Err(error);
                };
                tracing::warn!(spiffe_id = %entry.spiffe_id, error = %Chain(&error), "No new JWT-SVID: using the last one");
                Ok(kept)
            }
        }
    }

    /// A server that refuses may not know the entry yet: the fetch is retried, unless a cached token can be used
    /// instead (`once`). An unreachable server is reported at once: clients retry by themselves.
    async fn fetch(
        &self,
        entry: &AuthorizedEntry,
        audience: &[String],
        once: bool,
    ) -> Result<CachedJwt, JwtError> {
        let server = self.0.server.get().ok_or(JwtError::NotConnected)?;
        let give_up = Instant::now() + limits::SERVER_CALL;
        loop {
            match server
                .call(FETCH, |channel| ask(channel, entry, audience))
                .await
            {
                Ok(answer) => return held(answer, entry, self.now()),
                Err(SharedClientError::Call(error))
                    if !once && is_passing(&error) && Instant::now() + PAUSE < give_up =>
                {
                    tracing::debug!(spiffe_id = %entry.spiffe_id, error = %Chain(&*error), "Asking for a JWT-SVID again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::now(&*self.0.clock)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, JwtCache> {
        lock(&self.0.cache)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(
    channel: ServerChannel,
    entry: &AuthorizedEntry,
    audience: &[String],
) -> Result<Option<countersign_proto::spire::api::types::Jwtsvid>, CallError> {
    let request = NewJwtsvidRequest {
        entry_id: entry.id.to_string(),
        audience: audience.to_vec(),
    };
    let answer = SvidClient::new(channel)
        .new_jwtsvid(request)
        .await
        .map_err(failed(FETCH))?;
    Ok(answer.into_inner().svid)
}

/// Codes after which SPIRE's agent retries (wire contract, D.4).
fn is_passing(error: &CallError) -> bool {
    error.code().is_some_and(|code| {
        !matches!(
            code,
            Code::Unknown
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::InvalidArgument
                | Code::Unimplemented
        )
    })
}

fn held(
    answer: Option<countersign_proto::spire::api::types::Jwtsvid>,
    entry: &AuthorizedEntry,
    now: Moment,
) -> Result<CachedJwt, JwtError> {
    let wrong = |what: &str| JwtError::Answer(what.to_owned());
    let token = answer
        .ok_or_else(|| wrong("the JWT-SVID is missing"))?
        .token;
    let jwt = Jwt::parse(&token).map_err(|error| JwtError::Answer(Chain(&error).to_string()))?;
    if *jwt.id() != entry.spiffe_id {
        let what = format!(
            "the JWT-SVID is about {} and not {}",
            jwt.id(),
            entry.spiffe_id
        );
        return Err(JwtError::Answer(what));
    }
    let expires_at = jwt.expires_at();
    let issued_at = jwt
        .issued_at()
        .ok_or_else(|| wrong("the JWT-SVID does not say when it was issued"))?;
    let key_id = jwt.key_id().to_owned();
    let svid = JwtSvid {
        id: entry.spiffe_id.clone(),
        issued_at,
        expires_at,
        token: token.into(),
    };
    Ok(CachedJwt::new(svid, key_id, rotation::random_jitter(), now))
}
