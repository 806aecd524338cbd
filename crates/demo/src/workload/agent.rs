//! What every workload has: its place in the mesh, clients for the others, and a way to report what happens.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::OnceLock;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use countersign::{CallError, CalleeClient, Context, ENDPOINT_VARIABLE, Mesh, SpiffeId};
use countersign_attacker::Attacker;
use countersign_mesh::Reason;
use http::{Request, StatusCode};

use crate::protocol::{Called, Client, Event, Handling, Outcome, RefusedBy, Svid};
use crate::script::Name;

/// The longest body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// One workload.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: Name,
    pub(super) mesh: Mesh,
    others: OnceLock<BTreeMap<Name, (SocketAddr, CalleeClient)>>,
}

/// Reports one event. If the show has ended, the workload ends too: its standard input is closed.
pub(super) fn report(event: &Event) {
    match serde_json::to_string(event) {
        Ok(line) => {
            let mut out = std::io::stdout().lock();
            drop(writeln!(out, "{line}").and_then(|()| out.flush()));
        }
        Err(error) => tracing::error!(%error, ?event, "An event could not be written"),
    }
}

/// Logs and reports that something did not work.
pub(super) fn fault(error: &anyhow::Error) {
    let error = format!("{error:#}");
    tracing::error!(error, "Fault");
    report(&Event::Fault { error });
}

impl Agent {
    pub(super) const fn new(name: Name, mesh: Mesh) -> Self {
        Self {
            name,
            mesh,
            others: OnceLock::new(),
        }
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

    /// Makes a client for each of the others.
    pub(super) fn connect(&self, addresses: &BTreeMap<Name, SocketAddr>) -> anyhow::Result<()> {
        let others = addresses.iter().filter(|(name, _)| **name != self.name);
        let others =
            others.map(|(&name, &address)| Ok((name, (address, self.new_client(name, address)?))));
        let others = others.collect::<anyhow::Result<_>>()?;
        self.others
            .set(others)
            .ok()
            .context("the others are known already")
    }

    fn new_client(&self, callee: Name, address: SocketAddr) -> anyhow::Result<CalleeClient> {
        Ok(self
            .mesh
            .client(callee.id())?
            .at(format!("https://{address}"))?)
    }

    fn other(&self, callee: Name) -> anyhow::Result<&(SocketAddr, CalleeClient)> {
        let others = self.others.get();
        others
            .and_then(|others| others.get(&callee))
            .with_context(|| format!("{callee} is not known"))
    }

    /// The client for another workload, which keeps its connections.
    pub(super) fn client(&self, callee: Name) -> anyhow::Result<&CalleeClient> {
        Ok(&self.other(callee)?.1)
    }

    /// A client that has no connection yet.
    pub(super) fn fresh_client(&self, callee: Name) -> anyhow::Result<CalleeClient> {
        self.new_client(callee, self.other(callee)?.0)
    }

    /// Makes a call through the library and reports its outcome.
    pub(super) async fn call(&self, callee: &CalleeClient, path: &str, body: Bytes) {
        let members = self.members();
        let outcome = outcome(&post(callee, path, body).await);
        report_call(members, callee.id(), path, Client::Library, outcome);
    }

    /// Makes a call past the library and reports its outcome. The attacker has this workload's identity; `context` is
    /// the chain that it continues, or a new one if it is none.
    pub(super) async fn call_by_hand(
        &self,
        callee: Name,
        path: &str,
        context: impl FnOnce(&Attacker) -> anyhow::Result<countersign_mesh::Context>,
    ) -> anyhow::Result<()> {
        let endpoint = std::env::var(ENDPOINT_VARIABLE)?;
        let attacker = Attacker::join(&endpoint, &self.name.id()).await?;
        let (address, client) = self.other(callee)?;
        let (id, address) = (client.id(), address.to_string());
        let context = context(&attacker)?;
        let response = attacker
            .call(&context, id, &address, path, Bytes::new())
            .await?;
        let outcome = match countersign_attacker::reason(&response) {
            Some(reason) => Outcome::Refused {
                reason: reason.to_owned(),
                by: RefusedBy::Callee,
                sentence: Reason::from_wire(reason).sentence().to_owned(),
            },
            None if response.status().is_success() => Outcome::Answered,
            None => Outcome::Failed {
                error: format!("the answer was {}", response.status()),
            },
        };
        report_call(self.members(), id, path, Client::HandMade, outcome);
        Ok(())
    }

    /// The members of the running task's chain; this workload alone outside of any.
    fn members(&self) -> Vec<String> {
        match Context::current() {
            Some(context) => context.members().map(ToString::to_string).collect(),
            None => vec![self.name.id()],
        }
    }
}

fn report_call(
    members: Vec<String>,
    callee: &SpiffeId,
    path: &str,
    client: Client,
    outcome: Outcome,
) {
    report(&Event::Called(Called {
        members,
        callee: callee.to_string(),
        action: format!("POST {path}"),
        client,
        outcome,
    }));
}

/// Reports that a handler runs, with what the verified context of its call says.
pub(super) fn report_handling(path: &str) {
    if let Some(context) = Context::current() {
        report(&Event::Handling(Handling {
            action: format!("POST {path}"),
            members: context.members().map(ToString::to_string).collect(),
            hop: context.hop(),
            max_hops: context.max_hops(),
            remaining: context.remaining(),
        }));
    }
}

/// The answer of a handler that has nothing to say; its error is reported.
pub(super) fn answer(done: anyhow::Result<()>) -> StatusCode {
    match done {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(error) => {
            fault(&error);
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// Makes one call in the context of the running task, and reads the answer to its end.
pub(super) async fn post(
    callee: &CalleeClient,
    path: &str,
    body: Bytes,
) -> Result<StatusCode, CallError> {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().unwrap_or_default();
    let response = callee.http().send(request).await?;
    let status = response.status();
    drop(axum::body::to_bytes(response.into_body(), MAX_BODY).await);
    Ok(status)
}

/// How a call ended.
pub(super) fn outcome(result: &Result<StatusCode, CallError>) -> Outcome {
    match result {
        Ok(status) if status.is_success() => Outcome::Answered,
        Ok(status) => Outcome::Failed {
            error: format!("the answer was {status}"),
        },
        Err(CallError::Refused(refused)) => Outcome::Refused {
            reason: refused.reason().to_string(),
            by: match refused.by() {
                countersign::RefusedBy::ThisWorkload => RefusedBy::Library,
                countersign::RefusedBy::Callee => RefusedBy::Callee,
            },
            sentence: refused.to_string(),
        },
        Err(error) => Outcome::Failed {
            error: error.to_string(),
        },
    }
}
