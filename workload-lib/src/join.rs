//! Joining the mesh: waits for an identity and a policy.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_transport::{SharedClock, SystemClock};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::mesh::Mesh;
use crate::policy::{self, InForce};
use crate::source::{self, Identity, Which, Writer};

/// Names the node agent's socket, such as `unix:///run/countersign/agent.sock` (SPIFFE Workload Endpoint, section 4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Names the policy file.
pub const POLICY_VARIABLE: &str = "COUNTERSIGN_POLICY";

/// Why a process could not join the mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nothing says where the node agent is.
    #[error(
        "where is the node agent? Set {ENDPOINT_VARIABLE}, such as unix:///run/countersign/agent.sock"
    )]
    NoEndpoint,
    /// What says where the node agent is makes no sense.
    #[error(
        "{endpoint:?} is not an address of a node agent ({why}); write unix:///path/to/its.sock"
    )]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing says where the policy is.
    #[error(
        "which policy? Set {POLICY_VARIABLE} to the path of a policy file, or call policy_file"
    )]
    NoPolicyFile,
    /// The identity that the node agent gives to this process can never be used in a mesh.
    #[error("cannot take part in the mesh: {0}")]
    Unusable(Arc<str>),
    /// No usable identity came in time.
    #[error("no identity after {} s: {why}", waited.as_secs())]
    NoIdentity {
        /// How long was waited.
        waited: Duration,
        /// What was heard last.
        why: Arc<str>,
    },
    /// No usable policy came in time.
    #[error("no policy after {} s: {why}", waited.as_secs())]
    NoPolicy {
        /// How long was waited.
        waited: Duration,
        /// What was wrong last.
        why: String,
    },
}

/// What to join with; await it. See [`Mesh::join`].
#[derive(Clone, Debug)]
#[must_use = "await it"]
pub struct Join {
    endpoint: Option<String>,
    policy: Option<PathBuf>,
    which: Which,
    wait: Duration,
    clock: SharedClock,
}

impl Mesh {
    /// Joins the mesh: gets this process's identity from the node agent and the policy from a file.
    ///
    /// The node agent is found by `SPIFFE_ENDPOINT_SOCKET`, the policy by `COUNTERSIGN_POLICY`, unless told otherwise.
    /// Waits up to 30 s for both.
    ///
    /// # Errors
    /// [`JoinError`], which says what was missing in the end.
    pub fn join() -> Join {
        Join {
            endpoint: None,
            policy: None,
            which: Which::First,
            wait: limits::JOIN,
            clock: SystemClock::shared(),
        }
    }
}

impl Join {
    /// Asks the node agent at this address in place of the environment's.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Takes the policy from this file in place of the environment's.
    pub fn policy_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.policy = Some(path.into());
        self
    }

    /// Uses this SVID where the node agent gives several.
    pub fn svid(mut self, which: Which) -> Self {
        self.which = which;
        self
    }

    /// Waits this long in place of 30 s.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Goes by another clock.
    #[cfg(feature = "test-util")]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    async fn run(self) -> Result<Mesh, JoinError> {
        let from_environment = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let endpoint = self
            .endpoint
            .or_else(|| {
                from_environment(ENDPOINT_VARIABLE)
                    .map(|value| value.to_string_lossy().into_owned())
            })
            .ok_or(JoinError::NoEndpoint)?;
        if let Err(why) = source::check_endpoint(&endpoint) {
            return Err(JoinError::BadEndpoint { endpoint, why });
        }
        let path = self
            .policy
            .or_else(|| from_environment(POLICY_VARIABLE).map(PathBuf::from))
            .ok_or(JoinError::NoPolicyFile)?;

        let stop = CancellationToken::new();
        let (writer, reader) = Writer::new(self.which, Arc::clone(&self.clock));
        let policy = policy::watch_file(path, stop.clone());
        tokio::spawn(source::follow(endpoint, writer, stop.clone()));
        let mesh = Mesh::new(reader.clone(), policy.clone(), self.clock, stop);

        let until = Instant::now() + self.wait;
        await_identity(reader.identity, until, self.wait).await?;
        await_policy(policy, until, self.wait).await?;
        Ok(mesh)
    }
}

impl IntoFuture for Join {
    type Output = Result<Mesh, JoinError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

async fn await_identity(
    mut identity: watch::Receiver<Identity>,
    until: Instant,
    waited: Duration,
) -> Result<(), JoinError> {
    let decided = identity.wait_for(|now| matches!(now, Identity::Live(_) | Identity::Unusable(_)));
    drop(tokio::time::timeout_at(until, decided).await);
    match &*identity.borrow() {
        Identity::Live(_) => Ok(()),
        Identity::Unusable(why) => Err(JoinError::Unusable(Arc::clone(why))),
        Identity::Waiting(why) | Identity::Withdrawn(why) => Err(JoinError::NoIdentity {
            waited,
            why: Arc::clone(why),
        }),
    }
}

async fn await_policy(
    mut policy: watch::Receiver<InForce>,
    until: Instant,
    waited: Duration,
) -> Result<(), JoinError> {
    let there = policy.wait_for(|now| now.policy.is_some());
    drop(tokio::time::timeout_at(until, there).await);
    let now = policy.borrow();
    if now.policy.is_some() {
        return Ok(());
    }
    let why = now
        .problem
        .as_ref()
        .map_or_else(|| "the file was not read".to_owned(), ToString::to_string);
    Err(JoinError::NoPolicy { waited, why })
}
