//! Joining the mesh: waits for an identity and a policy, and says what it waits for.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_transport::{SharedClock, SystemClock};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{PolicyFileError, debug_as_sentence};
use crate::event::{EventLog, Events};
use crate::limits;
use crate::mesh::Mesh;
use crate::policy;
use crate::source::{self, Endpoint, Identity, InvalidEndpoint, Writer};
use crate::svid::SvidPicker;

/// Names the node agent's socket, such as `unix:///run/countersign/agent.sock` (SPIFFE Workload Endpoint, section 4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Names the policy file.
pub const POLICY_VARIABLE: &str = "COUNTERSIGN_POLICY";

/// Why a process could not join the mesh.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Neither the environment nor [`MeshBuilder::endpoint`] says where the node agent is.
    #[error(
        "where is the node agent? Set {ENDPOINT_VARIABLE}, such as unix:///run/countersign/agent.sock"
    )]
    NoEndpoint,
    /// The node agent's address is not one.
    #[error("{endpoint:?} is not an address of a node agent; write unix:///path/to/its.sock")]
    InvalidEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        source: InvalidEndpoint,
    },
    /// There is a file at the node agent's address, but it is no socket.
    #[error("{path} is not a socket, so no node agent can answer there", path = .0.display())]
    NotASocket(PathBuf),
    /// Neither the environment nor [`MeshBuilder::policy_file`] says where the policy is.
    #[error(
        "which policy? Set {POLICY_VARIABLE} to the path of a policy file, or call policy_file"
    )]
    NoPolicyFile,
    /// The policy file is not there or was refused.
    #[error("no policy is in force")]
    Policy(#[source] Arc<PolicyFileError>),
    /// The node agent could not be reached in time.
    #[error("no node agent after {} s: {why}", waited.as_secs())]
    NoNodeAgent {
        /// How long was waited.
        waited: Duration,
        /// What stood in the way last.
        why: Arc<str>,
    },
    /// The identity that the node agent gives to this process can never be used in a mesh.
    #[error("cannot take part in the mesh: {0}")]
    Unusable(Arc<str>),
    /// The node agent answers, but no usable identity came in time.
    #[error("no identity after {} s: {why}", waited.as_secs())]
    NoIdentity {
        /// How long was waited.
        waited: Duration,
        /// What stood in the way last.
        why: Arc<str>,
    },
}

debug_as_sentence!(JoinError);

/// What to join with; await it. [`Mesh::join`] makes one.
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), countersign::JoinError> {
/// use std::time::Duration;
/// use countersign::Mesh;
///
/// let mesh = Mesh::join()
///     .endpoint("unix:///run/countersign/agent.sock")
///     .policy_file("/etc/countersign/mesh.hcl")
///     .wait(Duration::from_secs(60)) // the node agent starts together with this process
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "await it"]
pub struct MeshBuilder {
    endpoint: Option<String>,
    policy: Option<PathBuf>,
    picker: SvidPicker,
    wait: Option<Duration>,
    clock: SharedClock,
    events: EventLog,
}

impl Mesh {
    /// Joins the mesh: gets this process's identity from the node agent and the policy from a file.
    ///
    /// The node agent is found by the environment variable `SPIFFE_ENDPOINT_SOCKET` and the policy by
    /// `COUNTERSIGN_POLICY`, unless the [`MeshBuilder`] is told otherwise.
    ///
    /// What waiting cannot mend fails at once: an address that is none, a file that is no socket, a policy file that is
    /// missing or has errors. A node agent that cannot be reached fails after 1 s, because a wrong path is the likely
    /// cause; one that answers but has no identity for this process yet after 30 s, because an entry may just have been
    /// made. [`MeshBuilder::wait`] sets one time for both. [`MeshBuilder::events`] says meanwhile what is waited for.
    ///
    /// # Errors
    /// [`JoinError`], which says what was missing.
    ///
    /// # Examples
    /// ```no_run
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mesh = countersign::Mesh::join().await?;
    /// println!("this is {}", mesh.svid()?.id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn join() -> MeshBuilder {
        MeshBuilder {
            endpoint: None,
            policy: None,
            picker: SvidPicker::First,
            wait: None,
            clock: SystemClock::shared(),
            events: EventLog::new(),
        }
    }
}

impl MeshBuilder {
    /// Asks the node agent at this address in place of the environment's: `unix:///path` or `tcp://address:port`.
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
    pub fn svid(mut self, picker: SvidPicker) -> Self {
        self.picker = picker;
        self
    }

    /// Waits this long for an identity, in place of 30 s, and for the node agent, in place of 1 s.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// The events of the mesh from the beginning, those of joining included.
    #[must_use = "events are read by Events::next"]
    pub fn events(&self) -> Events {
        self.events.read()
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
        let endpoint = match Endpoint::parse(&endpoint) {
            Ok(endpoint) => endpoint,
            Err(source) => return Err(JoinError::InvalidEndpoint { endpoint, source }),
        };
        if let Some(path) = endpoint.not_a_socket() {
            return Err(JoinError::NotASocket(path.to_owned()));
        }
        let path = self
            .policy
            .or_else(|| from_environment(POLICY_VARIABLE).map(PathBuf::from))
            .ok_or(JoinError::NoPolicyFile)?;

        let stop = CancellationToken::new();
        let policy = policy::watch_file(path, self.events.clone(), stop.clone());
        let (writer, reader) =
            Writer::new(self.picker, Arc::clone(&self.clock), self.events.clone());
        tokio::spawn(source::follow(endpoint, writer, stop.clone()));
        // Ends the two tasks if joining fails.
        let mesh = Mesh::new(
            reader.clone(),
            policy.clone(),
            self.clock,
            self.events,
            stop,
        );
        await_policy(policy).await?;
        await_identity(reader.identity, self.wait).await?;
        Ok(mesh)
    }
}

impl IntoFuture for MeshBuilder {
    type Output = Result<Mesh, JoinError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// The first look at the file decides: it is not worth waiting for a policy with errors.
async fn await_policy(mut policy: watch::Receiver<policy::InForce>) -> Result<(), JoinError> {
    // An error means that the task is gone, and with it what it would have published.
    let looked = policy
        .wait_for(|now| now.policy.is_some() || now.problem.is_some())
        .await;
    match looked.as_deref() {
        Ok(policy::InForce {
            policy: None,
            problem: Some(problem),
        }) => Err(JoinError::Policy(Arc::clone(problem))),
        _ => Ok(()),
    }
}

async fn await_identity(
    mut identity: watch::Receiver<Identity>,
    wait: Option<Duration>,
) -> Result<(), JoinError> {
    let begun = Instant::now();
    let decided = |now: &Identity| matches!(now, Identity::Live(_) | Identity::Unusable(_));
    let reached = |now: &Identity| !matches!(now, Identity::Unreached(_));
    let for_agent = wait.unwrap_or(limits::JOIN_NODE_AGENT);
    let for_identity = wait.unwrap_or(limits::JOIN);
    // Whether each came in time is read from the state itself, which may have changed since.
    drop(tokio::time::timeout_at(begun + for_agent, identity.wait_for(reached)).await);
    if reached(&identity.borrow()) {
        drop(tokio::time::timeout_at(begun + for_identity, identity.wait_for(decided)).await);
    }
    match &*identity.borrow() {
        Identity::Live(_) => Ok(()),
        Identity::Unusable(why) => Err(JoinError::Unusable(Arc::clone(why))),
        Identity::Unreached(why) => Err(JoinError::NoNodeAgent {
            waited: for_agent,
            why: Arc::clone(why),
        }),
        Identity::Waiting(why) | Identity::Withdrawn(why) => Err(JoinError::NoIdentity {
            waited: for_identity,
            why: Arc::clone(why),
        }),
    }
}
