//! From a request to its caller, and how many streams a caller may have.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_runtime::{Connection, UnixCaller};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::limits;
use crate::selectors::{Attestors, Caller};

/// The header that shows that a caller means to speak to the Workload API, and was not tricked into it (SPIFFE Workload
/// Endpoint, 6.1).
pub(crate) const SECURITY_HEADER: &str = "workload.spiffe.io";

pub(super) fn check_security_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

/// Who called, by the kernel's word. Nothing in the request itself says.
pub(super) fn unix_caller<T>(request: &Request<T>) -> Result<UnixCaller, Status> {
    request
        .extensions()
        .get::<Arc<Connection>>()
        .and_then(|connection| connection.unix_caller().cloned())
        .ok_or_else(|| Status::internal("the caller's process is not known"))
}

/// The caller's selectors, found out once per stream.
pub(super) async fn attest(
    attestors: &Attestors,
    caller: &UnixCaller,
) -> Result<countersign_identity::SelectorSet, Status> {
    let selectors = match Caller::of(caller) {
        Ok(caller) => attestors.attest(caller).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    selectors.map_err(|error| {
        tracing::warn!(
            pid = caller.pid,
            uid = caller.uid,
            error,
            "Workload attestation failed"
        );
        Status::unavailable("workload attestation failed")
    })
}

/// Counts open streams by process and by user.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_process: HashMap<i32, usize>,
    by_user: HashMap<u32, usize>,
    in_all: usize,
}

/// One stream's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    streams: Streams,
    pid: i32,
    uid: u32,
}

impl Streams {
    /// A place for one more stream of this process, which is this user's.
    pub(super) fn enter(&self, pid: i32, uid: u32) -> Result<Place, Status> {
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
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn the_security_header_must_be_there_once_and_true() {
        let with = |values: &[&'static str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append(SECURITY_HEADER, MetadataValue::from_static(value));
            }
            check_security_header(&metadata)
        };
        assert!(with(&["true"]).is_ok());
        for bad in [
            &[][..],
            &["false"],
            &["True"],
            &["true", "true"],
            &["true", "false"],
        ] {
            let status = with(bad).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(status.message(), "security header missing from request");
        }
    }

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
