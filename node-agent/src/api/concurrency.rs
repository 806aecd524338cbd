//! Limits the concurrent requests of a process, of a user, and of all callers together.
//!
//! A request counts from its headers, before its message arrives, until the end of its response: a caller that never
//! ends a request, or never reads a response, uses up only the limit of its own process.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use countersign_limits::{KeyedCounter, KeyedSemaphore, Lease};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::caller::unix_caller;
use super::rates::Method;
use crate::limits;

/// Limits the requests to these routes.
pub(super) fn limited(router: Router) -> Router {
    let caller_limits = CallerLimits {
        streams: Streams::default(),
        fetches: KeyedSemaphore::new(limits::SDS_FETCHES_PER_PROCESS),
    };
    router.layer(from_fn_with_state(caller_limits, limited_request))
}

#[derive(Clone)]
struct CallerLimits {
    streams: Streams,
    fetches: KeyedSemaphore<i32>,
}

async fn limited_request(
    State(caller_limits): State<CallerLimits>,
    request: Request,
    next: Next,
) -> Response {
    let caller = match unix_caller(request.extensions()) {
        Ok(caller) => caller,
        Err(status) => return status.into_http(),
    };
    let pid = caller.pid.unwrap_or_default();
    let lease = match caller_limits.streams.open(pid, caller.uid) {
        Ok(lease) => lease,
        Err(status) => return status.into_http(),
    };
    let _permit = if request.uri().path() == Method::FetchSecrets.path() {
        Some(caller_limits.fetches.acquire(pid).await)
    } else {
        None
    };
    // The response goes on after this function: the lease ends with its body.
    let with_lease = move |body: Body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &lease;
            frame
        }))
    };
    next.run(request).await.map(with_lease)
}

/// Counts open streams by process, by user, and all.
#[derive(Clone, Debug)]
struct Streams {
    by_process: KeyedCounter<i32>,
    by_user: KeyedCounter<u32>,
    all: Arc<Semaphore>,
}

/// A lease: one stream in each of the counts.
#[derive(Debug)]
struct StreamLease {
    _process: Lease<i32>,
    _user: Lease<u32>,
    _all: OwnedSemaphorePermit,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            by_process: KeyedCounter::new(limits::STREAMS_PER_PROCESS),
            by_user: KeyedCounter::new(limits::STREAMS_PER_USER),
            all: Arc::new(Semaphore::new(limits::STREAMS_IN_ALL)),
        }
    }
}

impl Streams {
    /// A lease for one more stream of this process of this user.
    fn open(&self, pid: i32, uid: u32) -> Result<StreamLease, Status> {
        let process = self
            .by_process
            .lease(pid)
            .ok_or_else(|| too_many("one process may hold", limits::STREAMS_PER_PROCESS))?;
        let user = self.by_user.lease(uid).ok_or_else(|| {
            too_many(
                "all processes of one user together may hold",
                limits::STREAMS_PER_USER,
            )
        })?;
        let all = Arc::clone(&self.all)
            .try_acquire_owned()
            .map_err(|_| too_many("all callers together may hold", limits::STREAMS_IN_ALL))?;
        Ok(StreamLease {
            _process: process,
            _user: user,
            _all: all,
        })
    }
}

/// UNAVAILABLE, since SPIFFE clients retry after that code.
fn too_many(whose: &str, limit: usize) -> Status {
    Status::unavailable(format!(
        "{whose} at most {limit} streams on the Workload API: close some"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_can_not_hold_all_streams() {
        let streams = Streams::default();
        let mut held: Vec<_> = (0..limits::STREAMS_PER_PROCESS)
            .map(|_| streams.open(1, 7).unwrap())
            .collect();
        let status = streams.open(1, 7).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("64 streams"), "{status}");
        assert!(streams.open(2, 7).is_ok());
        held.pop();
        assert!(streams.open(1, 7).is_ok());
        held.clear();
        assert_eq!(streams.all.available_permits(), limits::STREAMS_IN_ALL);
        assert!(streams.by_process.is_unused() && streams.by_user.is_unused());
    }

    #[test]
    fn one_user_can_not_hold_all_streams_with_many_processes() {
        let streams = Streams::default();
        let mut held = Vec::new();
        let refused = (0..)
            .find_map(|number| {
                let pid = number / i32::try_from(limits::STREAMS_PER_PROCESS).unwrap();
                match streams.open(pid, 1) {
                    Ok(lease) => {
                        held.push(lease);
                        None
                    }
                    Err(status) => Some(status),
                }
            })
            .unwrap();
        assert!(refused.message().contains("one user"), "{refused}");
        assert!(streams.open(-1, 2).is_ok(), "another user is served");
    }
}
