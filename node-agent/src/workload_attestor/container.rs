//! The `docker` and `podman` workload attestors: the container that the caller is in, as its engine describes it.
//!
//! The cgroup's name has the container's ID, but proves nothing: a process that may create cgroups can choose any name.
//! So the engine is asked for the PID of the container's first process as well, and the caller must be in the same
//! cgroup as that process (decision 0022).

mod engine;
mod id;

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_transport::process::PeerProcess;
use futures::FutureExt as _;

use self::engine::{Answer, Container, Engine};
use self::id::Membership;
use super::process::{Process, read_at};
use super::{AttestorError, Deadline, ProcessError, Values, WorkloadAttestor, on_blocking_thread};
use crate::limits;

pub(crate) use engine::EngineError;
pub(crate) use id::Matchers;

/// The Docker Engine's socket.
pub(crate) const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// The socket of Podman for containers of root.
pub(crate) const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// Which containers, and whom to ask about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Engines {
    /// The attestor's name, and the type of its selectors.
    pub(crate) name: &'static str,
    /// Docker's socket; none if only containers of Podman count.
    pub(crate) docker: Option<PathBuf>,
    /// The version of Docker's API, such as `1.41`; the engine's own if none.
    pub(crate) docker_version: Option<String>,
    /// Podman's socket for containers of root.
    pub(crate) podman: PathBuf,
    /// Podman's sockets for containers of other users, if they are believed: what stands before and after the user's
    /// number.
    pub(crate) rootless: Option<(String, String)>,
    /// Where in a cgroup's path the container's ID stands, if not in the usual places.
    pub(crate) matchers: Option<Matchers>,
}

/// The attestor.
#[derive(Debug)]
pub(crate) struct Containers(Engines);

impl Containers {
    /// An attestor that asks these.
    #[must_use]
    pub(crate) const fn new(engines: Engines) -> Self {
        Self(engines)
    }
}

impl WorkloadAttestor for Containers {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn attest(self: Arc<Self>, process: Arc<Process>, _: Deadline) -> Values {
        async move {
            let cgroups =
                on_blocking_thread(&process, |process| Ok(process.read("cgroup")?)).await?;
            let Some(membership) = Membership::find(&cgroups, self.0.matchers.as_ref())? else {
                return Ok(Vec::new());
            };
            let Some(engine) = self.engine_of(&membership) else {
                return Ok(Vec::new());
            };
            match self.container(&engine, &membership).await? {
                Some(container) => Ok(values(container)?),
                None => Ok(Vec::new()),
            }
        }
        .boxed()
    }
}

impl Containers {
    /// The engine to ask, if one for this kind of container is configured.
    fn engine_of(&self, membership: &Membership) -> Option<Engine> {
        let engines = &self.0;
        if !membership.is_podmans() {
            let socket = engines.docker.clone()?;
            return Some(Engine::new(socket, engines.docker_version.as_deref()));
        }
        let socket = match membership.user() {
            None => engines.podman.clone(),
            Some(uid) => {
                let (before, after) = engines.rootless.as_ref()?;
                format!("{before}{uid}{after}").into()
            }
        };
        Some(Engine::new(socket, None))
    }

    /// The engine's description of the container, if the engine runs it and the caller really is in it.
    async fn container(
        &self,
        engine: &Engine,
        membership: &Membership,
    ) -> Result<Option<Container>, AttestorError> {
        let Answer::Found(first) = engine.inspect(membership.id()).await? else {
            return Ok(None);
        };
        let pid = first
            .pid()
            .ok_or_else(|| EngineError::NotRunning(engine.to_string()))?;
        let held = tokio::task::spawn_blocking(move || first_process(pid));
        let cgroups = held.await.map_err(|_| AttestorError::Crashed)??;
        // The number was that of the container's process if it still is after the process has been looked at.
        let Answer::Found(again) = engine.inspect(membership.id()).await? else {
            return Err(EngineError::NotRunning(engine.to_string()).into());
        };
        if again.pid() != Some(pid) {
            return Err(EngineError::NotRunning(engine.to_string()).into());
        }
        let of_first = Membership::find(&cgroups, self.0.matchers.as_ref())?;
        if of_first.as_ref() != Some(membership) {
            return Err(EngineError::NotInside(engine.to_string()).into());
        }
        Ok(Some(again))
    }
}

/// The cgroups of the process that has this number now.
fn first_process(pid: i32) -> Result<String, AttestorError> {
    let ended = |_| ProcessError::Ended { pid };
    let process = PeerProcess::numbered(pid).map_err(ended)?;
    let directory = process.directory().map_err(ended)?;
    Ok(read_at(directory.as_fd(), pid, "cgroup")?)
}

/// As SPIRE has them. The image's digest is that of the container, not of what the image's name means by now.
fn values(container: Container) -> Result<Vec<String>, EngineError> {
    let digest = container.image_digest();
    let config = container.config;
    let (labels, environment) = (
        config.labels.unwrap_or_default(),
        config.environment.unwrap_or_default(),
    );
    let count = labels.len().saturating_add(environment.len());
    if count > limits::CONTAINER_SELECTORS {
        return Err(EngineError::TooMany(count));
    }
    let mut values: Vec<String> = labels
        .into_iter()
        .map(|(key, value)| format!("label:{key}:{value}"))
        .collect();
    values.extend(environment.iter().map(|one| format!("env:{one}")));
    if !config.image.is_empty() {
        values.push(format!("image_id:{}", config.image));
    }
    values.extend(digest.map(|digest| format!("image_config_digest:{digest}")));
    Ok(values)
}

#[cfg(test)]
mod tests;
