//! Having SVIDs signed, batch by batch.

use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::X509Svid;
use countersign_transport::error::Chain;
use tracing::Instrument as _;

use super::cache::RenewReason;
use super::fatal::Fatal;
use super::judge::Phase;
use super::rpc;
use super::syncer::{Core, Failure};
use crate::client::CallError;
use crate::entry::AuthorizedEntry;
use crate::limits;
use crate::rotation::{self, Moment};
use crate::signatures::Signatures;
use crate::skew::Skew;

/// Between two batches of SVIDs whose authority is tainted: every node of the trust domain renews its own at that moment.
const TAINTED_PAUSE: Duration = Duration::from_secs(5);

enum Signed {
    All,
    NotAll,
}

impl Core {
    /// Has all due SVIDs signed, batch by batch, and publishes after each. Of those whose authority is tainted, one
    /// batch at a time.
    pub(super) async fn sign_due(&mut self) -> Result<(), Fatal> {
        if !self.signing.is_open() {
            return Ok(());
        }
        let due = self.cache.due(Moment::now(&*self.clock), &self.callers());
        let (tainted, others): (Vec<_>, Vec<_>) = due
            .into_iter()
            .partition(|due| due.reason == RenewReason::Tainted);
        let mut due: Vec<_> = others.into_iter().map(|due| due.entry).collect();
        if !tainted.is_empty() && self.tainted.is_open() {
            let batch = tainted.into_iter().take(limits::TAINTED_PER_BATCH);
            due.extend(batch.map(|due| due.entry));
            self.tainted.pause(TAINTED_PAUSE);
        }
        while !due.is_empty() {
            let rest = due.split_off(self.batch.get().min(due.len()));
            let batch = std::mem::replace(&mut due, rest);
            match self.sign(batch).await {
                Ok(Signed::All) => self.batch.succeeded(),
                Ok(Signed::NotAll) => {
                    self.batch.succeeded();
                    self.signing.failed();
                }
                Err(Failure::Fatal(fatal)) => return Err(fatal),
                Err(Failure::Retryable(error)) => {
                    self.batch.failed();
                    let wait = self.signing.failed();
                    tracing::warn!(
                        error = %Chain(&error),
                        advice = error.advice(),
                        retry_in_milliseconds = wait.as_millis(),
                        "Could not have SVIDs signed yet"
                    );
                    return Ok(());
                }
            }
        }
        if self.signing.is_open() {
            self.signing.succeeded();
        }
        Ok(())
    }

    async fn sign(&mut self, batch: Vec<Arc<AuthorizedEntry>>) -> Result<Signed, Failure> {
        let span = span!("sign svids", svids = batch.len());
        self.sign_within(batch).instrument(span).await
    }

    async fn sign_within(&mut self, batch: Vec<Arc<AuthorizedEntry>>) -> Result<Signed, Failure> {
        let unusable = |reason: String| {
            Failure::Retryable(CallError::Answer {
                method: rpc::SIGN,
                reason,
            })
        };
        let key_type = self.config.key_type;
        let requests = tokio::task::spawn_blocking(move || rpc::signing_requests(batch, key_type))
            .await
            .map_err(|e| unusable(Chain(&e).to_string()))?
            .map_err(|e| unusable(Chain(&e).to_string()))?;
        let answer = self
            .client
            .call(rpc::SIGN, |channel| rpc::sign(channel, &requests))
            .await;
        let results = match answer {
            Ok(results) => results,
            Err(error) => {
                Signatures::X509.failed(requests.len());
                return self.handle_refusal(error).await.map(|()| Signed::NotAll);
            }
        };
        let (mut signed, mut renewed, mut refused) = (0, 0, 0);
        for (request, result) in requests.iter().zip(results) {
            match result {
                Ok(svid) => {
                    self.check_clock(&svid)?;
                    tracing::debug!(
                        spiffe_id = %svid.id(), entry = %request.entry.id, expires_at = %svid.not_after(), "SVID signed"
                    );
                    signed += 1;
                    renewed += usize::from(self.cache.contains(&request.entry.id));
                    let now = Moment::now(&*self.clock);
                    self.cache
                        .insert(&request.entry, svid, rotation::random_jitter(), now);
                }
                Err(error) => {
                    refused += 1;
                    tracing::warn!(
                        spiffe_id = %request.entry.spiffe_id, entry = %request.entry.id, error = %Chain(&error), "SVID not signed"
                    );
                }
            }
        }
        Signatures::X509.succeeded(signed, renewed);
        Signatures::X509.failed(refused);
        self.publish();
        Ok(if refused == 0 {
            Signed::All
        } else {
            Signed::NotAll
        })
    }

    /// At the start a wrong clock ends the node agent, with a message; later a service that works is not stopped for it.
    fn check_clock(&self, svid: &X509Svid) -> Result<(), Failure> {
        match (Skew::of_new(svid, self.clock.now()), self.phase) {
            (None, _) => Ok(()),
            (Some(skew), Phase::Starting) => Err(Failure::Fatal(Fatal::Clock(skew))),
            (Some(skew), Phase::Running) => {
                tracing::warn!("{skew}");
                Ok(())
            }
        }
    }
}
