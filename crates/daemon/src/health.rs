//! Health of a daemon: each part reports its state, and an HTTP listener answers `/live` and `/ready` with the reasons.
//!
//! Live means that a restart would not help; ready means that callers are served. A degraded part, such as a node agent
//! that can't reach its server, is ready and gives its reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use countersign_transport::clock::SharedClock;
use countersign_transport::drain::Drained;
use countersign_transport::serve::{Http, ServeOptions, serve_plain};
use countersign_transport::unix::Reachability;

/// Deadline for draining this listener.
const DRAIN: Duration = Duration::from_secs(1);
/// Callers at once: probes, not traffic.
const CONNECTIONS: usize = 64;

/// The state of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Well,
    /// Degraded: it works, but not fully, for this reason.
    Degraded(String),
    /// Callers can't be served, for this reason.
    NotReady(String),
    /// It will not recover without a restart, for this reason.
    Dead(String),
}

impl State {
    const fn word(&self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Degraded(_) => "degraded",
            Self::NotReady(_) => "not ready",
            Self::Dead(_) => "dead",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Well => None,
            Self::Degraded(reason) | Self::NotReady(reason) | Self::Dead(reason) => Some(reason),
        }
    }
}

/// All parts of one daemon; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, State>>>);

/// One part's handle for its reports.
#[derive(Clone, Debug)]
pub struct Check {
    health: Health,
    name: &'static str,
}

impl Health {
    /// Adds a part, in this initial state.
    #[must_use]
    pub fn check(&self, name: &'static str, state: State) -> Check {
        let check = Check {
            health: self.clone(),
            name,
        };
        check.set(state);
        check
    }

    /// Whether no part is dead.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.any(|state| matches!(state, State::Dead(_)))
    }

    /// Whether all parts serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.any(|state| matches!(state, State::Dead(_) | State::NotReady(_)))
    }

    /// The state of the part with this name, if there is one.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<State> {
        self.lock().get(name).cloned()
    }

    fn any(&self, is: impl Fn(&State) -> bool) -> bool {
        self.lock().values().any(is)
    }

    fn report(&self, well: bool, words: [&'static str; 2]) -> Response {
        let [yes, no] = words;
        let parts = self.lock();
        let parts = parts
            .iter()
            .map(|(name, state)| {
                let part = Part {
                    state: state.word(),
                    reason: state.reason(),
                };
                (*name, part)
            })
            .collect();
        let report = Report {
            status: if well { yes } else { no },
            parts,
        };
        // Strings alone: there is nothing that could fail to be JSON.
        let body = serde_json::to_string(&report).unwrap_or_default() + "\n";
        let code = if well {
            StatusCode::OK
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (code, kind, body).into_response()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    status: &'static str,
    parts: BTreeMap<&'static str, Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Check {
    /// The part's state.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        self.health.state(self.name)
    }

    /// Sets the part's state.
    pub fn set(&self, state: State) {
        self.health.lock().insert(self.name, state);
    }

    /// Reports the part as healthy while callers can reach this socket. Returns when the socket is dropped.
    pub async fn follow(self, mut reachability: watch::Receiver<Reachability>) {
        loop {
            let state = match &*reachability.borrow_and_update() {
                Reachability::Reachable => State::Well,
                Reachability::Unreachable(reason) => State::NotReady(reason.clone()),
            };
            self.set(state);
            if reachability.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The paths on which health is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPaths {
    /// Liveness: fails if a restart would help.
    pub live: String,
    /// Readiness: whether callers are served.
    pub ready: String,
}

/// Answers on these paths.
pub fn router(health: Health, paths: &HealthPaths) -> Router {
    let live =
        async |Extract(health): Extract<Health>| health.report(health.is_live(), ["live", "dead"]);
    let ready = async |Extract(health): Extract<Health>| {
        health.report(health.is_ready(), ["ready", "not ready"])
    };
    let router = Router::new().route(&paths.live, get(live));
    let router = if paths.live == paths.ready {
        router
    } else {
        router.route(&paths.ready, get(ready))
    };
    router.with_state(health)
}

/// Serves a router for operators, in plain HTTP, until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    clock: SharedClock,
    stop: CancellationToken,
) -> Drained {
    let mut options = ServeOptions::new(Http::Auto, clock).drain(DRAIN);
    options.connections = CONNECTIONS;
    serve_plain(listener, router, options, stop).await
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(health: &Health, path: &str) -> (u16, serde_json::Value) {
        let paths = HealthPaths {
            live: "/live".into(),
            ready: "/ready".into(),
        };
        let request = http::Request::get(path)
            .body(axum::body::Body::empty())
            .unwrap();
        let answer = router(health.clone(), &paths)
            .oneshot(request)
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn health_is_told_with_the_reasons_of_each_part() {
        let health = Health::default();
        assert_eq!(ask(&health, "/ready").await.0, 200);
        let sync = health.check("sync", State::NotReady("no sync yet".into()));
        let _socket = health.check("socket", State::Well);
        let (code, body) = ask(&health, "/ready").await;
        assert_eq!((code, &body["status"]), (500, &"not ready".into()));
        assert_eq!(body["parts"]["sync"]["reason"], "no sync yet");
        assert_eq!(body["parts"]["socket"], serde_json::json!({"state": "ok"}));
        assert_eq!(ask(&health, "/live").await.0, 200);

        sync.set(State::Degraded("the server is away".into()));
        let (code, body) = ask(&health, "/ready").await;
        assert_eq!(
            (code, &body["parts"]["sync"]["state"]),
            (200, &"degraded".into())
        );
        sync.set(State::Dead("it is over".into()));
        assert_eq!(ask(&health, "/live").await.0, 500);
        assert_eq!(ask(&health, "/ready").await.0, 500);
        assert_eq!(ask(&health, "/other").await.0, 404);
    }

    #[tokio::test]
    async fn a_daemon_whose_socket_is_anothers_is_not_ready() {
        let health = Health::default();
        let socket = watch::Sender::new(Reachability::Reachable);
        let check = health.check("workload_api", State::Well);
        let following = tokio::spawn(check.follow(socket.subscribe()));
        socket.send_replace(Reachability::Unreachable("another process".into()));
        drop(socket);
        following.await.unwrap();
        let (code, body) = ask(&health, "/ready").await;
        assert_eq!(code, 500);
        assert_eq!(body["parts"]["workload_api"]["reason"], "another process");
    }
}
