//! JWT-SVIDs for workloads: fetched from the server when a workload asks, and used again for half of their life
//! (docs/wire.md, F.4).
//!
//! Called by `api`. The token itself is the server's; this side checks only that it is about the entry it was asked for.

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

/// Between two attempts at a server that refuses what it should not.
const PAUSE: Duration = Duration::from_secs(1);

/// A JWT-SVID, ready to be handed out.
#[derive(Clone, Debug)]
pub(crate) struct JwtSvid {
    /// The compact JWS.
    pub(crate) token: Arc<str>,
    /// Who it is about.
    pub(crate) id: SpiffeId,
    /// When it was made.
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
    /// Fetches under way: who asks for the same waits for the one that began.
    under_way: Flights,
    /// Of each user, so that none keeps the others from the server.
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

    /// Fetches from this server from now on. The first one counts.
    pub(crate) fn connect(&self, server: SharedClient) {
        drop(self.0.server.set(server));
    }

    /// Where they are fetched.
    #[must_use]
    pub(crate) fn server(&self) -> Option<&SharedClient> {
        self.0.server.get()
    }

    /// How many are kept.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.cache().len()
    }

    /// One for this entry and these audiences, for a process of the user `uid`. A kept one is good for half of its life;
    /// after that a new one is fetched, and if there is none to be had the kept one is good until it expires. What a key
    /// signed that is being withdrawn is never used again.
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
        // The server limits the rate of this whole node, so no user may have more than a few fetches under way.
        let _permit = self.0.fetches.acquire(uid).await;
        self.fetch_and_keep(&key, entry, audience).await
    }

    fn fresh(&self, key: &JwtKey) -> Option<JwtSvid> {
        let now = self.now();
        self.usable(key)
            .filter(|held| !held.renew.has_come(now))
            .map(|held| held.svid)
    }

    /// What is kept, unless it has expired or its key is being withdrawn.
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

    /// A server that refuses may not know the entry yet: it is asked again, unless a cached token can serve instead
    /// (`once`). A server that can't be reached is reported at once: clients try again by themselves.
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

/// Codes after which SPIRE's agent asks again (wire contract, D.4).
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
