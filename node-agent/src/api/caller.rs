//! From a request to its caller, and to what that one is worth.

use std::sync::Arc;

use countersign_identity::SelectorSet;
use countersign_transport::allowance::Allowance;
use countersign_transport::{Connection, UnixCaller};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

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

/// Everybody who may call on one socket.
#[derive(Clone)]
pub(super) struct Callers {
    feed: Feed,
    attestors: Attestors,
    rates: RateLimits,
    lines: Arc<Allowance>,
}

/// A caller that was attested.
pub(super) struct Admitted {
    /// Wakes for what concerns it.
    pub(super) subscription: Subscription,
    /// Its user.
    pub(super) uid: u32,
    feed: Feed,
}

impl Callers {
    pub(super) fn new(feed: Feed, attestors: Attestors) -> Self {
        Self {
            feed,
            attestors,
            rates: RateLimits::default(),
            lines: Arc::new(Allowance::new(limits::LINES_ABOUT_CALLERS)),
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
        let caller = unix_caller(request.extensions())?;
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
        })
    }

    /// How many lines about callers may stand in the log.
    pub(super) fn lines(&self) -> Arc<Allowance> {
        Arc::clone(&self.lines)
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
            if let Some(held_back) = self.lines.line() {
                tracing::warn!(
                    pid = named.pid,
                    uid = named.uid,
                    %error,
                    held_back = (held_back > 0).then_some(held_back),
                    "Workload attestation failed"
                );
            }
            Status::unavailable("workload attestation failed")
        })
    }
}

impl Admitted {
    /// The newest picture.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        self.feed.current().ok_or_else(not_synced)
    }

    /// The same caller, asking about somebody with these selectors.
    pub(super) fn about(self, selectors: SelectorSet) -> Self {
        Self {
            subscription: self.feed.subscribe(selectors),
            ..self
        }
    }

    /// The same caller, asking about everybody.
    pub(super) fn about_everything(self) -> Self {
        self.about(SelectorSet::default())
    }
}

/// Who called, by the kernel's word. Nothing in the request itself says.
pub(super) fn unix_caller(extensions: &Extensions) -> Result<UnixCaller, Status> {
    extensions
        .get::<Arc<Connection>>()
        .and_then(|connection| connection.unix_caller().cloned())
        .ok_or_else(|| Status::internal("the caller's process is not known"))
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
}
