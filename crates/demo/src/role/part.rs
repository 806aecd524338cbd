//! What every workload has: its place in the mesh, whom it knows, and a way to tell what happens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use countersign::{CallError, CalleeClient, Context, Mesh, RefusedBy};
use http_body_util::{BodyExt as _, Limited};

use super::tell::Teller;
use crate::event::{By, Client, Event, Handling, Made, Outcome, Svid};
use crate::script::Name;

/// The longest body that is taken, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// One workload.
#[derive(Debug)]
pub(super) struct Part {
    name: Name,
    mesh: Mesh,
    endpoint: String,
    known: OnceLock<BTreeMap<Name, Known>>,
}

/// Somebody who can be called.
#[derive(Debug)]
struct Known {
    place: SocketAddr,
    client: CalleeClient,
}

impl Part {
    pub(super) const fn new(name: Name, mesh: Mesh, endpoint: String) -> Self {
        Self {
            name,
            mesh,
            endpoint,
            known: OnceLock::new(),
        }
    }

    pub(super) const fn name(&self) -> Name {
        self.name
    }

    pub(super) const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The node agent's address.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn tell(&self, event: &Event) {
        Teller.tell(event);
    }

    pub(super) fn fault(&self, error: &anyhow::Error) {
        tracing::error!(error = format!("{error:#}"), "fault");
        self.tell(&Event::Fault {
            why: format!("{error:#}"),
        });
    }

    /// The SVID in use.
    pub(super) fn svid(&self) -> anyhow::Result<Svid> {
        let svid = self.mesh.svid()?;
        Ok(Svid {
            id: svid.id().to_string(),
            serial: svid.serial().to_owned(),
            not_after: svid.not_after().as_secs(),
        })
    }

    /// Learns where the others are.
    pub(super) fn know(&self, places: &BTreeMap<Name, SocketAddr>) -> anyhow::Result<()> {
        let known = places.iter().filter(|(name, _)| **name != self.name);
        let known = known.map(|(&name, &place)| {
            anyhow::Ok((
                name,
                Known {
                    place,
                    client: self.connect(name, place)?,
                },
            ))
        });
        let known = known.collect::<Result<_, _>>()?;
        self.known
            .set(known)
            .map_err(|_| anyhow::anyhow!("{} knows the others already", self.name))
    }

    fn known(&self, callee: Name) -> anyhow::Result<&Known> {
        let known = self.known.get().and_then(|known| known.get(&callee));
        known.with_context(|| format!("{} does not know where {callee} is", self.name))
    }

    /// Where somebody serves.
    pub(super) fn place(&self, callee: Name) -> anyhow::Result<SocketAddr> {
        Ok(self.known(callee)?.place)
    }

    /// The client of somebody, which keeps its connections.
    pub(super) fn client(&self, callee: Name) -> anyhow::Result<&CalleeClient> {
        Ok(&self.known(callee)?.client)
    }

    /// A client of somebody that has no connection yet.
    pub(super) fn fresh_client(&self, callee: Name) -> anyhow::Result<CalleeClient> {
        self.connect(callee, self.place(callee)?)
    }

    fn connect(&self, callee: Name, place: SocketAddr) -> anyhow::Result<CalleeClient> {
        Ok(self
            .mesh
            .client(callee.id())?
            .at(format!("https://{place}"))?)
    }

    /// Makes a call through the library and tells what came of it.
    pub(super) async fn call(
        &self,
        callee: &CalleeClient,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<()> {
        let members = self.members();
        let outcome = outcome(&post(callee, path, body).await);
        self.tell(&Event::Made(Made {
            members,
            callee: callee.id().to_string(),
            action: format!("POST {path}"),
            client: Client::Library,
            outcome,
        }));
        Ok(())
    }

    /// Everyone in the chain of the running task up to this workload; the workload alone outside any.
    pub(super) fn members(&self) -> Vec<String> {
        match Context::current() {
            Some(context) => context.members().map(ToString::to_string).collect(),
            None => vec![self.name.id()],
        }
    }

    /// Tells that this workload handles a call.
    pub(super) fn tell_handling(&self, path: &str) -> anyhow::Result<()> {
        let context = Context::current().context("a handler runs in the context of its call")?;
        self.tell(&Event::Handling(Handling {
            action: format!("POST {path}"),
            members: context.members().map(ToString::to_string).collect(),
            hop: context.hop(),
            max_hops: context.max_hops(),
            remaining: context.remaining(),
        }));
        Ok(())
    }
}

/// Why a call was not answered with a success.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The library or the callee refused, or there was no connection.
    Call(CallError),
    /// What came was no success.
    Answer(anyhow::Error),
}

/// Makes one call in the context of the running task.
pub(super) async fn post(
    callee: &CalleeClient,
    path: &str,
    body: Bytes,
) -> Result<Bytes, Unanswered> {
    let request = http::Request::post(path).body(Body::from(body));
    let request = request.map_err(|error| Unanswered::Answer(error.into()))?;
    let response = callee
        .http()
        .send(request)
        .await
        .map_err(Unanswered::Call)?;
    let status = response.status();
    let body = read(response.into_body())
        .await
        .map_err(Unanswered::Answer)?;
    if status.is_success() {
        Ok(body)
    } else {
        let text = String::from_utf8_lossy(&body).into_owned();
        Err(Unanswered::Answer(anyhow::anyhow!(
            "the answer was {status}: {text}"
        )))
    }
}

/// Reads a body.
pub(super) async fn read(body: Body) -> anyhow::Result<Bytes> {
    let body = Limited::new(body, MAX_BODY).collect().await;
    Ok(body
        .map_err(|error| anyhow::anyhow!("reading a body: {error}"))?
        .to_bytes())
}

/// What came of a call.
pub(super) fn outcome(result: &Result<Bytes, Unanswered>) -> Outcome {
    match result {
        Ok(_) => Outcome::Answered,
        Err(Unanswered::Call(CallError::Refused(refused))) => Outcome::Refused {
            reason: refused.reason().to_string(),
            by: match refused.by() {
                RefusedBy::ThisWorkload => By::Caller,
                RefusedBy::Callee => By::Callee,
            },
            sentence: refused.to_string(),
        },
        Err(Unanswered::Call(error)) => Outcome::Failed {
            why: error.to_string(),
        },
        Err(Unanswered::Answer(error)) => Outcome::Failed {
            why: format!("{error:#}"),
        },
    }
}
