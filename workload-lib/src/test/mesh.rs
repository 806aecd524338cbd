//! The mesh of a test, and its agents.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{
    Bundle, BundleSet, KeyType, PrivateKey, SigningKey as _, SpiffeId, TrustDomain, X509Svid,
};
use countersign_mesh::Policy;
use countersign_mesh::policy::InvalidPolicy;
use countersign_transport::{SharedClock, SystemClock};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use super::feed::{self, Feed};
use crate::error::{BoxError, InvalidCallee, debug_as_sentence};
use crate::mesh::Mesh;
use crate::outbound::CalleeClient;
use crate::policy::{self, InForce};

/// How long authorities are valid, and SVIDs for half of it.
const LIFE: Duration = Duration::from_secs(2 * 3600);

/// Why an agent of a test could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TestMeshError {
    /// The policy of the test has errors.
    #[error("the test's policy was refused")]
    Policy(#[from] InvalidPolicy),
    /// The agent's name is not a SPIFFE ID.
    #[error("{id:?} is not a SPIFFE ID")]
    Id {
        /// What was given.
        id: String,
        /// The rule that it breaks.
        source: InvalidId,
    },
    /// No identity could be issued.
    #[error("no identity could be issued")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No port could be opened on the loopback device.
    #[error("no port could be opened on 127.0.0.1")]
    Listen(#[from] io::Error),
}

debug_as_sentence!(TestMeshError);

fn identity(error: impl Into<BoxError>) -> TestMeshError {
    TestMeshError::Identity(error.into())
}

/// A mesh of agents in one process, with an authority for each trust domain that appears and one policy for all.
///
/// Clones share everything.
///
/// # Examples
/// See the [module](super).
#[derive(Clone)]
pub struct TestMesh(Arc<TestMeshState>);

struct TestMeshState {
    policy: watch::Sender<InForce>,
    clock: SharedClock,
    authorities: Mutex<HashMap<TrustDomain, IssuingCa>>,
    /// What every agent is fed again when a trust domain appears.
    feeds: Mutex<Vec<(X509Svid, Arc<Mutex<Feed>>)>>,
}

impl TestMesh {
    /// A mesh under this policy, as a policy file would have it.
    ///
    /// # Errors
    /// [`TestMeshError::Policy`] with every error of the text.
    pub fn new(policy: &str) -> Result<Self, TestMeshError> {
        Self::with_clock(policy, SystemClock::shared())
    }

    /// As [`TestMesh::new`], with a clock that the test moves.
    ///
    /// # Errors
    /// As [`TestMesh::new`].
    pub fn with_clock(policy: &str, clock: SharedClock) -> Result<Self, TestMeshError> {
        Ok(Self(Arc::new(TestMeshState {
            policy: policy::given(Policy::parse(policy)?),
            clock,
            authorities: Mutex::default(),
            feeds: Mutex::default(),
        })))
    }

    /// Puts another policy in force for all agents at once.
    ///
    /// # Errors
    /// [`TestMeshError::Policy`]; the last one then stays.
    pub fn set_policy(&self, policy: &str) -> Result<(), TestMeshError> {
        let policy = Arc::new(Policy::parse(policy)?);
        self.0.policy.send_modify(|now| now.policy = Some(policy));
        Ok(())
    }

    /// An agent with this SPIFFE ID and a port of its own on 127.0.0.1. It answers there once [`TestAgent::serve`] is
    /// called.
    ///
    /// # Errors
    /// [`TestMeshError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn agent(&self, id: impl AsRef<str>) -> Result<TestAgent, TestMeshError> {
        let text = id.as_ref();
        let id = SpiffeId::parse(text).map_err(|source| TestMeshError::Id {
            id: text.to_owned(),
            source,
        })?;
        let svid = self.issue(&id)?;
        let policy = self.0.policy.subscribe();
        let clock = Arc::clone(&self.0.clock);
        let (mesh, feed) =
            feed::fed(svid.clone(), self.bundles(), policy, clock).map_err(identity)?;
        let feed = Arc::new(Mutex::new(feed));
        let number = {
            let mut feeds = lock(&self.0.feeds);
            feeds.push((svid, Arc::clone(&feed)));
            feeds.len() - 1
        };
        // The agents that are there already have to know the authority of a trust domain that is new.
        self.feed_all()?;
        let tcp = std::net::TcpListener::bind("127.0.0.1:0")?;
        tcp.set_nonblocking(true)?;
        let address = tcp.local_addr()?;
        Ok(TestAgent {
            test: self.clone(),
            id,
            mesh,
            feed,
            number,
            address,
            listener: Mutex::new(Some(TcpListener::from_std(tcp)?)),
            server: Mutex::default(),
        })
    }

    fn feed_all(&self) -> Result<(), TestMeshError> {
        let bundles = self.bundles();
        for (svid, feed) in &*lock(&self.0.feeds) {
            lock(feed)
                .send(svid.clone(), bundles.clone())
                .map_err(identity)?;
        }
        Ok(())
    }

    fn bundles(&self) -> BundleSet {
        let authorities = lock(&self.0.authorities);
        let bundles = authorities.iter().map(|(domain, ca)| Bundle {
            x509_authorities: vec![ca.authority().clone()],
            ..Bundle::empty(domain.clone())
        });
        bundles.collect()
    }

    fn issue(&self, id: &SpiffeId) -> Result<X509Svid, TestMeshError> {
        let now = self.0.clock.now();
        let mut authorities = lock(&self.0.authorities);
        let domain = id.trust_domain();
        if !authorities.contains_key(&domain) {
            let key = PrivateKey::generate(KeyType::EcP256).map_err(identity)?;
            let begin = now.before(Duration::from_secs(60));
            let root = self_signed_authority(&domain, &Subject::authority(), &key, LIFE, begin)
                .map_err(identity)?;
            let ca = IssuingCa::new(root, Vec::new(), Arc::new(key)).map_err(identity)?;
            authorities.insert(domain.clone(), ca);
        }
        let missing = || identity("the authority is gone");
        let ca = authorities.get(&domain).ok_or_else(missing)?;
        let key = PrivateKey::generate(KeyType::EcP256).map_err(identity)?;
        let public = PublicKey::from_spki(key.spki()).map_err(identity)?;
        let template = SvidTemplate {
            id,
            dns_names: &[],
            ttl: LIFE / 2,
        };
        let issued = ca.issue(&template, &public, now).map_err(identity)?;
        X509Svid::new(issued.chain, key).map_err(identity)
    }
}

impl fmt::Debug for TestMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestMesh").finish_non_exhaustive()
    }
}

/// An agent of a [`TestMesh`]. When it is dropped, it stops serving.
///
/// # Examples
/// ```
/// use countersign::test::TestMesh;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let planner = TestMesh::new("")?.agent("spiffe://example.org/planner")?;
/// let before = planner.mesh().svid()?;
/// planner.rotate()?;
/// assert_ne!(before.serial(), planner.mesh().svid()?.serial());
/// planner.withdraw();
/// assert!(planner.mesh().svid().is_err());
/// # Ok(())
/// # }
/// ```
pub struct TestAgent {
    test: TestMesh,
    id: SpiffeId,
    mesh: Mesh,
    feed: Arc<Mutex<Feed>>,
    number: usize,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    server: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl TestAgent {
    /// The mesh as the agent's own code would get it from `Mesh::join()`.
    #[must_use]
    pub const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The agent's SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Where it serves, for [`Callee::at`](crate::outbound::Callee::at): `https://127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Serves `service` in a task, as [`Mesh::serve`] does.
    ///
    /// # Panics
    /// If the agent serves already: its port is served once, and a test must not go on with the first service unseen.
    #[track_caller]
    #[expect(clippy::panic, reason = "a mistake in a test ends the test")]
    pub fn serve<S, R>(&self, service: S)
    where
        S: Service<Request<Body>, Response = Response<R>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Some(listener) = lock(&self.listener).take() else {
            panic!(
                "{} serves already; merge the routers and serve once",
                self.id
            );
        };
        let mesh = self.mesh.clone();
        let serving = tokio::spawn(async move {
            if let Err(error) = mesh.serve(listener, service).await {
                tracing::error!(?error, "An agent of a test stopped serving");
            }
        });
        *lock(&self.server) = Some(AbortOnDropHandle::new(serving));
    }

    /// A client of another agent.
    ///
    /// # Errors
    /// [`InvalidCallee`] if the other agent's ID names a trust domain only.
    pub fn client_of(&self, callee: &Self) -> Result<CalleeClient, InvalidCallee> {
        self.mesh.client(&callee.id)?.at(callee.address())
    }

    /// Gives the agent another SVID, as the node agent does at half of its life.
    ///
    /// # Errors
    /// [`TestMeshError::Identity`].
    pub fn rotate(&self) -> Result<(), TestMeshError> {
        let svid = self.test.issue(&self.id)?;
        if let Some((last, _)) = lock(&self.test.0.feeds).get_mut(self.number) {
            last.clone_from(&svid);
        }
        let bundles = self.test.bundles();
        lock(&self.feed).send(svid, bundles).map_err(identity)
    }

    /// Withdraws the agent's identity, as the node agent does when its entry is deleted; [`TestAgent::rotate`] gives one
    /// again.
    pub fn withdraw(&self) {
        lock(&self.feed).withdraw();
    }
}

impl fmt::Debug for TestAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestAgent")
            .field("id", &self.id)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
