//! How many requests a process, a user and all of them together may have under way.
//!
//! A place is taken once the head of a request has come, before anything of its message is waited for, and it is free when
//! the answer has ended: whoever never ends a request, or never reads an answer, takes up places of their own process.

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

/// With a place for each request to what is served here.
pub(super) fn bounded(router: Router) -> Router {
    let places = Places {
        streams: Streams::default(),
        fetches: Turns::new(limits::SDS_FETCHES_PER_PROCESS),
    };
    router.layer(from_fn_with_state(places, in_place))
}

#[derive(Clone)]
struct Places {
    streams: Streams,
    fetches: Turns<i32>,
}

async fn in_place(State(places): State<Places>, request: Request, next: Next) -> Response {
    let caller = match unix_caller(request.extensions()) {
        Ok(caller) => caller,
        Err(status) => return status.into_http(),
    };
    let pid = caller.pid.unwrap_or_default();
    let place = match places.streams.enter(pid, caller.uid) {
        Ok(place) => place,
        Err(status) => return status.into_http(),
    };
    let _turn = if request.uri().path() == Method::FetchSecrets.path() {
        Some(places.fetches.wait(pid).await)
    } else {
        None
    };
    let held = move |body: Body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &place;
            frame
        }))
    };
    next.run(request).await.map(held)
}

/// Counts open streams by process and by user.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_process: HashMap<i32, usize>,
    by_user: HashMap<u32, usize>,
    in_all: usize,
}

/// One stream's place; free again when it is dropped.
#[derive(Debug)]
struct Place {
    streams: Streams,
    pid: i32,
    uid: u32,
}

impl Streams {
    /// A place for one more stream of this process, which is this user's.
    fn enter(&self, pid: i32, uid: u32) -> Result<Place, Status> {
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
        if counts.in_all >= limits::STREAMS_IN_ALL {
            return Err(too_many(
                "all callers together may hold",
                limits::STREAMS_IN_ALL,
            ));
        }
        counts.by_process.insert(pid, open + 1);
        counts.by_user.insert(uid, users + 1);
        counts.in_all += 1;
        drop(counts);
        Ok(Place {
            streams: self.clone(),
            pid,
            uid,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unavailable, since SPIFFE clients come back after that one.
fn too_many(whose: &str, limit: usize) -> Status {
    Status::unavailable(format!(
        "{whose} at most {limit} streams on the Workload API: close some"
    ))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.streams.lock();
        counts.in_all = counts.in_all.saturating_sub(1);
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
        let mut held: Vec<_> = (0..limits::STREAMS_PER_PROCESS)
            .map(|_| streams.enter(1, 7).unwrap())
            .collect();
        let status = streams.enter(1, 7).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("64 streams"), "{status}");
        assert!(streams.enter(2, 7).is_ok());
        held.pop();
        assert!(streams.enter(1, 7).is_ok());
        held.clear();
        assert_eq!(streams.lock().in_all, 0);
        assert!(streams.lock().by_process.is_empty() && streams.lock().by_user.is_empty());
    }

    #[test]
    fn one_user_can_not_take_all_places_with_many_processes() {
        let streams = Streams::default();
        let mut held = Vec::new();
        let refused = (0..)
            .find_map(|number| {
                let pid = number / i32::try_from(limits::STREAMS_PER_PROCESS).unwrap();
                match streams.enter(pid, 1) {
                    Ok(place) => {
                        held.push(place);
                        None
                    }
                    Err(status) => Some(status),
                }
            })
            .unwrap();
        assert!(refused.message().contains("one user"), "{refused}");
        assert!(streams.enter(-1, 2).is_ok(), "another user is served");
    }
}
