//! The node's own identity at the server: what a refusal calls for is done here, and the node's SVID is renewed (SPIRE's
//! Agent API: AttestAgent and RenewAgent).

use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::trace::span;
use countersign_identity::{KeyType, PrivateKey, X509Svid};
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::error::Chain;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::fatal::Fatal;
use super::judge::{Action, Ending, Refusal, Situation, judge};
use super::rpc;
use super::syncer::{Core, Failure, RunningSyncer};
use crate::client::CallError;
use crate::node_attestor::{Attested, RetryLimit, attest, attest_once};
use crate::rotation::{self, Moment};

impl Core {
    /// Does what a failed call means. `Ok`: the node has another identity, with which the call may succeed.
    pub(super) async fn handle_refusal(&mut self, error: CallError) -> Result<(), Failure> {
        let refusal = Refusal::of(&error);
        if refusal == Refusal::UnknownAuthority {
            self.unknown_since.get_or_insert_with(Instant::now);
        }
        match judge(&self.situation(), refusal) {
            Action::Retry => Err(Failure::Retryable(error)),
            Action::UseOlderSvid => {
                tracing::info!(
                    "The server does not know the renewed SVID: using the one before it"
                );
                self.node.fall_back(Moment::now(&*self.clock));
                self.identify();
                Ok(())
            }
            Action::Reattest(reason) => self.reattest(reason, error).await,
            Action::AwaitRebootstrap(left) => {
                tracing::info!(
                    seconds_left = left.as_secs(),
                    "Trust bundle and server don't agree: waiting before trust is taken from its source again"
                );
                Err(Failure::Retryable(error))
            }
            Action::Rebootstrap => self.rebootstrap().await,
            Action::End(ending) => Err(Failure::Fatal(self.end(ending, error).await)),
        }
    }

    fn situation(&self) -> Situation {
        Situation {
            phase: self.phase,
            reattestable: self.reattestable(),
            has_older_svid: self.node.has_older_svid(),
            rebootstrap: self.config.trust.rebootstrap,
            unknown_for: self
                .unknown_since
                .map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }

    async fn reattest(&mut self, reason: Reason, refused: CallError) -> Result<(), Failure> {
        tracing::info!(?reason, "The server wants this node to attest again");
        let attestor = Arc::clone(&self.config.attestor);
        match attest(&mut self.client, &*attestor, RetryLimit::Short).await {
            Ok(attested) => {
                self.attested(attested).await;
                Ok(())
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "This node could not attest again");
                let ending = Ending::NotAccepted(reason);
                Err(Failure::Fatal(self.end(ending, refused).await))
            }
        }
    }

    /// Why the node agent ends. What the server does not accept any more is removed from disk, so that nothing of it is
    /// served after the next start.
    async fn end(&mut self, ending: Ending, error: CallError) -> Fatal {
        let attestor = self.config.attestor.kind();
        match ending {
            Ending::Banned => {
                self.forget().await;
                Fatal::Banned { attestor }
            }
            Ending::NotAccepted(reason) => {
                self.forget().await;
                Fatal::NotAccepted { reason, attestor }
            }
            Ending::UnknownAuthority => Fatal::UnknownAuthority {
                address: self.client.address().to_owned(),
                reason: error,
            },
            Ending::NotReattestable => Fatal::NotReattestable,
        }
    }

    /// Removes this node's identity and workloads' SVIDs from disk.
    async fn forget(&mut self) {
        self.persister.forget().await;
        if let Err(error) = self.node.forget().await {
            tracing::error!(
                error = %Chain(&error),
                "This node's SVID could not be removed from disk: remove the file"
            );
        }
    }

    fn reattestable(&self) -> bool {
        self.node
            .identity()
            .is_some_and(|identity| identity.reattestable)
    }

    async fn attested(&mut self, attested: Attested) {
        let svid = attested.identity.svid.clone();
        let bundle = Arc::new(attested.bundle.clone());
        // It is in use even if it can't be written: the server has dropped the one before it.
        self.node
            .attested(attested, Moment::now(&*self.clock))
            .await;
        self.bundles.replace(bundle);
        self.client.identify(svid.clone());
        self.unknown_since = None;
        tracing::info!(spiffe_id = %svid.id(), expires_at = %svid.not_after(), "This node has attested again");
    }

    fn identify(&mut self) {
        if let Some(identity) = self.node.identity() {
            self.client.identify(identity.svid.clone());
        }
    }

    /// An expired SVID can't be renewed any more, but a node that may attest again can do that.
    pub(super) fn check_expiry(&self, error: &CallError) -> Result<(), Fatal> {
        let identity = self.node.identity();
        let expired = identity.map(|identity| identity.svid.not_after());
        match expired.filter(|at| *at < self.clock.now()) {
            Some(expired) if !self.reattestable() => Err(Fatal::Expired {
                expired,
                reason: Chain(error).to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// A new SVID for the node: by attesting again where the server said that it may, by renewing otherwise.
    async fn renew(&mut self) -> Result<(), Failure> {
        if self.reattestable() {
            let attested = attest_once(&mut self.client, &*self.config.attestor).await;
            self.identify();
            return match attested {
                Ok(attested) => {
                    self.attested(attested).await;
                    Ok(())
                }
                Err(error) => match error.into_call() {
                    // Only a refusal with a reason is final here, as with any other call: the SVID in use is still good.
                    Ok(refused) => self.handle_refusal(refused).await,
                    Err(no_proof) => Err(renewing(&no_proof)),
                },
            };
        }
        let key = PrivateKey::generate(KeyType::EcP256).map_err(|error| renewing(&error))?;
        let result = self
            .client
            .call(rpc::RENEW, |channel| rpc::renew(channel, key.clone()))
            .await;
        match result {
            Ok(svid) => self.renewed(svid).await,
            Err(error) => self.handle_refusal(error).await,
        }
    }

    async fn renewed(&mut self, svid: X509Svid) -> Result<(), Failure> {
        let expires_at = svid.not_after();
        if self
            .node
            .identity()
            .is_some_and(|identity| identity.svid.id() != svid.id())
        {
            return Err(Failure::Retryable(CallError::Here {
                doing: RENEWING,
                reason: format!("renewed as {}, which is another node", svid.id()),
            }));
        }
        // On disk before its first use: from then on the server refuses the old one.
        self.node
            .renewed(svid, Moment::now(&*self.clock))
            .await
            .map_err(|error| renewing(&error))?;
        self.identify();
        tracing::info!(%expires_at, "Renewed this node's SVID");
        Ok(())
    }

    async fn rebootstrap(&mut self) -> Result<(), Failure> {
        tracing::warn!("Trust bundle and server don't agree: taking trust from its source again");
        let trust_domain = self.client.trust_domain().clone();
        let fresh = self.config.trust.bundle(&trust_domain).await;
        let Some(fresh) = fresh.map_err(|error| renewing(&error))? else {
            // The configuration allows this mode only with a source.
            return Err(Failure::Retryable(CallError::Here {
                doing: RENEWING,
                reason: "there is no source of trust".to_owned(),
            }));
        };
        self.bundles.replace(Arc::new(fresh));
        match attest_once(&mut self.client, &*self.config.attestor).await {
            Ok(attested) => {
                self.attested(attested).await;
                Ok(())
            }
            Err(error) => {
                // A source that is wrong as well must not replace what was trusted.
                if let Some(bundle) = self.node.bundle() {
                    self.bundles.replace(Arc::new(bundle.clone()));
                }
                Err(renewing(&error))
            }
        }
    }
}

impl RunningSyncer {
    pub(super) async fn renew_if_due(&mut self) -> Result<(), Fatal> {
        let core = &mut self.core;
        let now = Moment::now(&*core.clock);
        if !core.node.renew().has_come(now) || !self.renewal.is_open() {
            return Ok(());
        }
        let span = span!("renew node");
        match core.renew().instrument(span).await {
            Ok(()) => {
                core.health.renewed();
                let now = core.clock.now();
                let end = core
                    .node
                    .identity()
                    .map_or(now, |identity| identity.svid.not_after());
                self.renewal.succeeded();
                self.renewal.pause(rotation::earliest(end, now).since(now));
                Ok(())
            }
            Err(Failure::Fatal(fatal)) => Err(fatal),
            Err(Failure::Retryable(error)) => {
                core.health.renewal_failed();
                core.check_expiry(&error)?;
                let wait = self.renewal.failed();
                tracing::warn!(
                    error = %Chain(&error),
                    advice = error.advice(),
                    retry_in_seconds = wait.as_secs(),
                    "Could not renew this node's SVID yet"
                );
                Ok(())
            }
        }
    }
}

const RENEWING: &str = "renewing this node's identity";

fn renewing(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Retryable(CallError::Here {
        doing: RENEWING,
        reason: Chain(error).to_string(),
    })
}
