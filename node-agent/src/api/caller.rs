//! Resolves a request to its attested caller.

use std::sync::Arc;

use countersign_identity::SelectorSet;
use countersign_transport::error::Chain;
use countersign_transport::log_limiter::LogLimiter;
use countersign_transport::{Connection, UnixCaller};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::rates::{Method, RateLimits};
use crate::config::MethodRates;
use crate::limits;
use crate::sync::{EntrySource, Feed, Snapshot, Subscription};
use crate::workload_attestor::{AttestationFailed, Attestors, Caller, ProcessError};
use crate::workload_client::SECURITY_HEADER;

pub(super) fn check_security_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

/// SPIRE's text, which clients match. UNAVAILABLE until the first sync: before all entries are known, a caller must not
/// be told that it has no identity (decision 0003).
pub(super) fn no_identity(snapshot: &Snapshot) -> Status {
    match snapshot.known() {
        EntrySource::Server => Status::permission_denied("no identity issued"),
        EntrySource::Disk => not_synced(),
    }
}

fn not_synced() -> Status {
    Status::unavailable("the node agent has not synced with the server yet")
}

/// Attests the callers of one socket, and limits them.
#[derive(Clone)]
pub(super) struct Callers {
    feed: Feed,
    attestors: Attestors,
    rates: RateLimits,
    lines: Arc<LogLimiter>,
}

/// A caller that was attested.
pub(super) struct Admitted {
    /// Notified of changes that concern it.
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
            rates: RateLimits::new(MethodRates::default()),
            lines: Arc::new(LogLimiter::new(limits::LINES_ABOUT_CALLERS)),
        }
    }

    /// The same, with rate limits.
    pub(super) fn limited(self, rates: MethodRates) -> Self {
        Self {
            rates: RateLimits::new(rates),
            ..self
        }
    }

    /// The steps of every request before its first response: attestation, rate limit, subscription. A request without
    /// `method` is not rate-limited.
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
        // The node agent's own health check must not consume the rate of its user.
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

    /// The limit on log lines about callers.
    pub(super) fn lines(&self) -> Arc<LogLimiter> {
        Arc::clone(&self.lines)
    }

    /// Attests the process that a delegate names by PID.
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

    /// Attests the caller, once per stream.
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
                    error = %Chain(&error),
                    held_back = (held_back > 0).then_some(held_back),
                    "Workload attestation failed"
                );
            }
            Status::unavailable("workload attestation failed")
        })
    }
}

impl Admitted {
    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        self.feed.current().ok_or_else(not_synced)
    }

    /// The same caller, subscribed to changes for these selectors.
    pub(super) fn about(self, selectors: SelectorSet) -> Self {
        Self {
            subscription: self.feed.subscribe(selectors),
            ..self
        }
    }

    /// The same caller, subscribed to every change.
    pub(super) fn about_everything(self) -> Self {
        self.about(SelectorSet::default())
    }
}

/// The calling process as the kernel reports it; nothing in the request can influence that.
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
