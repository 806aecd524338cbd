//! How this node stands with the server: what refusals mean, renewing, attesting again, and trust that was lost (wire
//! contract, C.6 and C.7).

use std::sync::Arc;

use countersign_daemon::trace::span;
use countersign_identity::{KeyType, PrivateKey};
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::dial::Cause;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::fatal::Fatal;
use super::remote;
use super::rotation::{self, Moment};
use super::task::{Failure, Started, Syncer};
use crate::attest::{Attested, Patience, Rebootstrap, attest, attest_once};
use crate::client::CallError;

impl Syncer {
    /// What a failed call means. `Ok` means: the node has another identity now, try again with that.
    pub(super) async fn judge(&mut self, error: CallError) -> Result<(), Failure> {
        match (error.denied(), error.cause()) {
            (Some(Reason::AgentBanned), _) => {
                self.forget().await;
                let attestor = self.settings.attestor.kind();
                Err(Failure::Fatal(Fatal::Banned { attestor }))
            }
            (Some(Reason::Unknown), _) => Err(Failure::Passing(error)),
            (Some(reason), _) => self.not_accepted(reason).await,
            (None, Some(Cause::UnknownAuthority)) => self.unknown_authority(error).await,
            (None, _) => Err(Failure::Passing(error)),
        }
    }

    /// The server does not accept the identity in use. At the start there may be an older one that it does; while running
    /// the node attests again, if it may. Otherwise the identity is worth nothing any more.
    async fn not_accepted(&mut self, reason: Reason) -> Result<(), Failure> {
        if self.started == Started::No {
            if self.node.fall_back(Moment::now(&*self.clock)) {
                tracing::info!(
                    "The server does not know the renewed SVID: using the one before it"
                );
                self.identify();
                return Ok(());
            }
        } else if self.reattestable() {
            tracing::info!(?reason, "The server wants this node to attest again");
            let attested = attest(
                &mut self.client,
                &*self.settings.attestor,
                Patience::Limited,
            );
            match attested.await {
                Ok(attested) => {
                    self.attested(attested).await;
                    return Ok(());
                }
                Err(error) => tracing::error!(%error, "This node could not attest again"),
            }
        }
        self.forget().await;
        Err(Failure::Fatal(Fatal::NotAccepted {
            reason,
            attestor: self.settings.attestor.kind(),
        }))
    }

    /// Nothing of this node's identity, and nothing that it served, stays on disk.
    async fn forget(&mut self) {
        self.keeper.forget().await;
        if let Err(error) = self.node.forget().await {
            tracing::error!(%error, "This node's SVID could not be removed from disk: remove the file");
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
        // It is in use even if it can't be kept: the server has dropped the one before it.
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

    /// An SVID that has run out can't be renewed any more, but a node that may attest again can do that.
    pub(super) fn check_expiry(&self, error: &CallError) -> Result<(), Fatal> {
        let identity = self.node.identity();
        let expired = identity.map(|identity| identity.svid.not_after());
        match expired.filter(|at| *at < self.clock.now()) {
            Some(expired) if !self.reattestable() => Err(Fatal::Expired {
                expired,
                reason: error.to_string(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) async fn renew_if_due(&mut self) -> Result<(), Fatal> {
        let now = Moment::now(&*self.clock);
        if !self.node.renew().has_come(now) || !self.renewal.is_open() {
            return Ok(());
        }
        let span = span!("renew node");
        match self.renew().instrument(span).await {
            Ok(()) => {
                self.renewal.succeeded();
                self.reports.renewed();
                let (now, end) = (self.clock.now(), self.node.identity());
                let end = end.map_or(now, |identity| identity.svid.not_after());
                self.renewal.pause(rotation::earliest(end, now).since(now));
                Ok(())
            }
            Err(Failure::Fatal(fatal)) => Err(fatal),
            Err(Failure::Passing(source)) => {
                self.reports.renewal_failed(&source);
                self.check_expiry(&source)?;
                let wait = self.renewal.failed();
                tracing::warn!(
                    error = %source,
                    advice = source.advice(),
                    retry_in_seconds = wait.as_secs(),
                    "Could not renew this node's SVID yet"
                );
                Ok(())
            }
        }
    }

    /// A new SVID for the node: by attesting again where the server said that it may, by renewing otherwise.
    async fn renew(&mut self) -> Result<(), Failure> {
        if self.reattestable() {
            let attested = attest_once(&mut self.client, &*self.settings.attestor).await;
            self.identify();
            return match attested {
                Ok(attested) => {
                    self.attested(attested).await;
                    Ok(())
                }
                Err(error) => match error.into_call() {
                    // Here the refusal is final only with a reason, as with any other call.
                    Ok(source) => self.judge(source).await,
                    Err(no_proof) => Err(unusable(no_proof.to_string())),
                },
            };
        }
        let key = PrivateKey::generate(KeyType::EcP256).map_err(|e| unusable(e.to_string()))?;
        let result = self
            .client
            .call(remote::RENEW, |channel| remote::renew(channel, key.clone()))
            .await;
        let svid = match result {
            Ok(svid) => svid,
            Err(error) => return self.judge(error).await,
        };
        let expires_at = svid.not_after();
        if self
            .node
            .identity()
            .is_some_and(|identity| identity.svid.id() != svid.id())
        {
            return Err(unusable(format!(
                "renewed as {}, which is another node",
                svid.id()
            )));
        }
        // On disk before its first use: from then on the server refuses the old one.
        self.node
            .renewed(svid, Moment::now(&*self.clock))
            .await
            .map_err(|error| unusable(error.to_string()))?;
        self.identify();
        tracing::info!(%expires_at, "Renewed this node's SVID");
        Ok(())
    }

    /// The server shows a certificate of an authority that is not known here. Either it was set up anew, or somebody else
    /// answers in its place: only an operator can have said that trust may be taken from its source again.
    async fn unknown_authority(&mut self, source: CallError) -> Result<(), Failure> {
        let Some(delay) = self.settings.trust.rebootstrap.delay() else {
            let address = self.client.address().to_owned();
            return Err(Failure::Fatal(Fatal::UnknownAuthority { address, source }));
        };
        if !self.reattestable() {
            if matches!(self.settings.trust.rebootstrap, Rebootstrap::Always(_)) {
                return Err(Failure::Fatal(Fatal::NotReattestable));
            }
            let address = self.client.address().to_owned();
            return Err(Failure::Fatal(Fatal::UnknownAuthority { address, source }));
        }
        let since = *self.unknown_since.get_or_insert_with(Instant::now);
        let left = delay.saturating_sub(since.elapsed());
        if !left.is_zero() {
            tracing::info!(
                seconds_left = left.as_secs(),
                "Trust bundle and server don't agree: waiting before trust is taken from its source again"
            );
            return Err(Failure::Passing(source));
        }
        self.rebootstrap().await
    }

    async fn rebootstrap(&mut self) -> Result<(), Failure> {
        tracing::warn!("Trust bundle and server don't agree: taking trust from its source again");
        let trust_domain = self.client.trust_domain().clone();
        let fresh = self.settings.trust.bundle(&trust_domain).await;
        let fresh = fresh.map_err(|error| unusable(error.to_string()))?;
        let Some(fresh) = fresh else {
            return Err(unusable("there is no source of trust".to_owned()));
        };
        self.bundles.replace(Arc::new(fresh));
        match attest_once(&mut self.client, &*self.settings.attestor).await {
            Ok(attested) => {
                self.attested(attested).await;
                Ok(())
            }
            Err(error) => {
                // As it was: a source that is wrong as well must not stay.
                if let Some(bundle) = self.node.bundle() {
                    self.bundles.replace(Arc::new(bundle.clone()));
                }
                Err(unusable(error.to_string()))
            }
        }
    }
}

fn unusable(reason: String) -> Failure {
    Failure::Passing(CallError::Here {
        doing: "renewing this node's identity",
        reason,
    })
}
