//! From a request to its caller, to what that one is worth, and how many streams a caller may have.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::SelectorSet;
use countersign_runtime::{Connection, UnixCaller};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::rates::{Method, RateLimits, Rates};
use crate::limits;
use crate::selectors::{AttestationFailed, Attestors, Caller, ProcessError};
use crate::sync::{Feed, Known, Snapshot, Subscription};

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

/// The words are SPIRE's: clients look for them. As long as not all entries are known, nobody is told that it has none.
pub(super) fn no_identity(snapshot: &Snapshot) -> Status {
    match snapshot.known() {
        Known::FromServer => Status::permission_denied("no identity issued"),
        Known::FromEarlier => not_synced(),
    }
}

fn not_synced() -> Status {
    Status::unavailable("the node agent has not synced with the server yet")
}

/// Everybody who may call on one socket, or on several that share their bounds.
#[derive(Clone)]
pub(super) struct Callers {
    feed: Feed,
    attestors: Attestors,
    streams: Streams,
    rates: RateLimits,
}

/// A caller that was attested, in its place.
pub(super) struct Admitted {
    /// Wakes for what concerns it.
    pub(super) subscription: Subscription,
    /// Its user.
    pub(super) uid: u32,
    feed: Feed,
    _place: Place,
}

impl Callers {
    pub(super) fn new(feed: Feed, attestors: Attestors) -> Self {
        Self {
            feed,
            attestors,
            streams: Streams::default(),
            rates: RateLimits::default(),
        }
    }

    /// They may call so often.
    pub(super) fn limited(self, rates: Rates) -> Self {
        Self {
            rates: RateLimits::new(rates),
            ..self
        }
    }

    /// What all requests have in common before their first answer. A method with a rate is counted.
    pub(super) async fn admit<T>(
        &self,
        request: &Request<T>,
        method: impl Into<Option<Method>>,
    ) -> Result<Admitted, Status> {
        if self.feed.current().is_none() {
            return Err(not_synced());
        }
        let caller = unix_caller(request)?;
        let place = self
            .streams
            .enter(caller.pid.unwrap_or_default(), caller.uid)?;
        let selectors = self.attest(Caller::of(&caller), &caller).await?;
        // The node agent asks itself how it is, and that is nobody's flood.
        if let Some(method) = method.into().filter(|_| !caller.is_this_process()) {
            self.rates.take(method, &selectors)?;
        }
        tracing::debug!(
            pid = caller.pid,
            selectors = selectors.len(),
            "Workload attested"
        );
        Ok(Admitted {
            subscription: self.feed.subscribe(selectors),
            uid: caller.uid,
            feed: self.feed.clone(),
            _place: place,
        })
    }

    /// The selectors of a process that somebody else names and answers for.
    pub(super) async fn attest_process(&self, pid: i32) -> Result<SelectorSet, Status> {
        let caller = Caller::numbered(pid);
        let (uid, gid) = caller.as_ref().map_or((0, 0), |c| (c.uid, c.gid));
        let named = UnixCaller {
            pid: Some(pid),
            uid,
            gid,
            process: None,
        };
        self.attest(caller, &named).await
    }

    /// The caller's selectors, found out once per stream.
    async fn attest(
        &self,
        caller: Result<Caller, ProcessError>,
        named: &UnixCaller,
    ) -> Result<SelectorSet, Status> {
        let selectors = match caller {
            Ok(caller) => self.attestors.attest(caller).await,
            Err(error) => Err(AttestationFailed::Process(error)),
        };
        selectors.map_err(|error| {
            tracing::warn!(
                pid = named.pid,
                uid = named.uid,
                %error,
                "Workload attestation failed"
            );
            Status::unavailable("workload attestation failed")
        })
    }
}

impl Admitted {
    /// The newest picture.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        self.feed.current().ok_or_else(not_synced)
    }

    /// The same caller in the same place, asking about somebody with these selectors.
    pub(super) fn about(self, selectors: SelectorSet) -> Self {
        Self {
            subscription: self.feed.subscribe(selectors),
            ..self
        }
    }

    /// The same caller in the same place, asking about everybody.
    pub(super) fn about_everything(self) -> Self {
        self.about(SelectorSet::default())
    }
}

/// Who called, by the kernel's word. Nothing in the request itself says.
fn unix_caller<T>(request: &Request<T>) -> Result<UnixCaller, Status> {
    request
        .extensions()
        .get::<Arc<Connection>>()
        .and_then(|connection| connection.unix_caller().cloned())
        .ok_or_else(|| Status::internal("the caller's process is not known"))
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
