//! Limits how many requests a process, a user and all callers together have under way.
//!
//! A request counts from its headers on, before its message is waited for, until its response has ended: a caller that
//! never ends a request, or never reads a response, uses up the limit of its own process.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use countersign_transport::turns::Turns;
use http_body_util::BodyExt as _;
use tonic::Status;

use super::caller::unix_caller;
use super::rates::Method;
use crate::limits;

/// Limits the requests to these routes.
pub(super) fn limited(router: Router) -> Router {
    let caller_limits = CallerLimits {
        streams: Streams::default(),
        fetches: Turns::new(limits::SDS_FETCHES_PER_PROCESS),
    };
    router.layer(from_fn_with_state(caller_limits, limited_request))
}

#[derive(Clone)]
struct CallerLimits {
    streams: Streams,
    fetches: Turns<i32>,
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
    let permit = match caller_limits.streams.open(pid, caller.uid) {
        Ok(permit) => permit,
        Err(status) => return status.into_http(),
    };
    let _turn = if request.uri().path() == Method::FetchSecrets.path() {
        Some(caller_limits.fetches.wait(pid).await)
    } else {
        None
    };
    let with_permit = move |body: Body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &permit;
            frame
        }))
    };
    next.run(request).await.map(with_permit)
}

/// Counts open streams by process and by user.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<Mutex<StreamCounts>>);

#[derive(Debug, Default)]
struct StreamCounts {
    by_process: HashMap<i32, usize>,
    by_user: HashMap<u32, usize>,
    total: usize,
}

/// One stream's permit; free again when it is dropped.
#[derive(Debug)]
struct StreamPermit {
    streams: Streams,
    pid: i32,
    uid: u32,
}

impl Streams {
    /// A permit for one more stream of this process, which is this user's.
    fn open(&self, pid: i32, uid: u32) -> Result<StreamPermit, Status> {
        let mut counts = self.lock();
        let open = counts.by_process.get(&pid).copied().unwrap_or_default();
        if open >= limits::STREAMS_PER_PROCESS {
            return Err(too_many(
                "one process may hold",
                limits::STREAMS_PER_PROCESS,
            ));
        }
        let users = counts.by_user.get(&uid).copied().unwrap_or_default();
        if users >= limits::STREAMS_PER_USER {
            return Err(too_many(
                "all processes of one user together may hold",
                limits::STREAMS_PER_USER,
            ));
        }
        if counts.total >= limits::STREAMS_IN_ALL {
            return Err(too_many(
                "all callers together may hold",
                limits::STREAMS_IN_ALL,
            ));
        }
        counts.by_process.insert(pid, open + 1);
        counts.by_user.insert(uid, users + 1);
        counts.total += 1;
        drop(counts);
        Ok(StreamPermit {
            streams: self.clone(),
            pid,
            uid,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StreamCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unavailable, since SPIFFE clients come back after that one.
fn too_many(whose: &str, limit: usize) -> Status {
    Status::unavailable(format!(
        "{whose} at most {limit} streams on the Workload API: close some"
    ))
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = self.streams.lock();
        counts.total = counts.total.saturating_sub(1);
        leave(&mut counts.by_process, &self.pid);
        leave(&mut counts.by_user, &self.uid);
    }
}

fn leave<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(open) = counts.get_mut(key) {
        *open = open.saturating_sub(1);
        if *open == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_can_not_take_all_places() {
        let streams = Streams::default();
        let mut permits: Vec<_> = (0..limits::STREAMS_PER_PROCESS)
            .map(|_| streams.open(1, 7).unwrap())
            .collect();
        let status = streams.open(1, 7).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("64 streams"), "{status}");
        assert!(streams.open(2, 7).is_ok());
        permits.pop();
        assert!(streams.open(1, 7).is_ok());
        permits.clear();
        assert_eq!(streams.lock().total, 0);
        assert!(streams.lock().by_process.is_empty() && streams.lock().by_user.is_empty());
    }

    #[test]
    fn one_user_can_not_take_all_places_with_many_processes() {
        let streams = Streams::default();
        let mut permits = Vec::new();
        let refused = (0..)
            .find_map(|number| {
                let pid = number / i32::try_from(limits::STREAMS_PER_PROCESS).unwrap();
                match streams.open(pid, 1) {
                    Ok(permit) => {
                        permits.push(permit);
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
