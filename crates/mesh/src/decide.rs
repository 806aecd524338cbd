//! The inbound decision: from a request to a [`Permit`] or a [`Refusal`].
//!
//! `docs/call-chains.md`, section 3. Cheap checks come first, the first failure is the answer, and nothing that others
//! share is charged before step 9.

mod charge;
mod limit;
mod state;
mod step;

use std::sync::Arc;

use countersign_identity::bundle::Bundles;
use countersign_identity::{KeyId, Now, SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;

use self::charge::Charge;
use self::state::State;
use crate::chain::{Carrier, ChainId, FieldValue};
use crate::context::Context;
use crate::limits::Capacity;
use crate::policy::Policy;
use crate::refusal::Refusal;

/// The verified other side of the connection that a request came in on.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a> {
    /// Its SPIFFE ID, as its certificate says.
    pub id: &'a SpiffeId,
    /// The key of its certificate.
    pub kid: KeyId,
    /// What it presented, leaf first.
    pub chain: &'a [CertificateDer<'static>],
    /// Until when its leaf is valid, that second included.
    pub not_after: UnixTime,
}

/// The chain fields of a request, under all four names.
#[derive(Clone, Copy, Debug, Default)]
pub struct FieldValues<'a> {
    /// `agent-chain`
    pub chain: FieldValue<'a>,
    /// `agent-chain-certs`
    pub certs: FieldValue<'a>,
    /// `agent-chain-bin`
    pub chain_bin: FieldValue<'a>,
    /// `agent-chain-certs-bin`
    pub certs_bin: FieldValue<'a>,
}

/// A request as the decision sees it.
#[derive(Clone, Copy, Debug)]
pub struct InboundRequest<'a> {
    /// The other side; `None` if TLS has not verified one.
    pub peer: Option<PeerView<'a>>,
    /// The ID of the certificate that this side presented on the connection.
    pub presented: &'a SpiffeId,
    /// The method.
    pub method: &'a str,
    /// The path as it was sent, without the query. Empty or without a leading `/` for targets that have none.
    pub path: &'a str,
    /// What the content type makes of the request.
    pub carrier: Carrier,
    /// The fields, also those of the other carrier.
    pub fields: FieldValues<'a>,
}

/// The state behind the decisions of one callee: counters, caches and the bundles. Cheap to clone; all clones share it.
///
/// The policy is not part of it: it comes with each decision, so that a new version takes effect at once and the
/// counters live on.
#[derive(Clone, Debug)]
pub struct Engine {
    state: Arc<State>,
}

impl Engine {
    /// An engine that has seen nothing yet.
    #[must_use]
    pub fn new(bundles: Arc<dyn Bundles>) -> Self {
        Self::with_capacity(bundles, &Capacity::default())
    }

    /// The same with other bounds of its maps.
    #[must_use]
    pub(crate) fn with_capacity(bundles: Arc<dyn Bundles>, capacity: &Capacity) -> Self {
        Self {
            state: Arc::new(State::new(bundles, capacity)),
        }
    }

    /// Decides about one request: all checks of section 3 in their order, the first failure is the answer.
    ///
    /// The signature of the last link may still be open in the permit; it is checked before anything is made of the
    /// context (see [`Context::check_signature`]).
    ///
    /// # Errors
    /// The refusal to answer with. What the request had charged is undone.
    pub fn decide(
        &self,
        policy: &Policy,
        request: &InboundRequest<'_>,
        at: Now,
    ) -> Result<Permit, Refusal> {
        self.state.tidy(at);
        step::decide(&self.state, policy, request, at)
    }

    /// Forgets what was verified under the bundle of this trust domain. To be called after a bundle lost an authority
    /// ([`Bundle::lost_authority_of`](countersign_identity::Bundle::lost_authority_of)) or is gone altogether, once the
    /// [`Bundles`] given at the start answer with the new one.
    pub fn authority_removed(&self, trust_domain: &str) {
        self.state.caches.forget(trust_domain);
    }

    /// How many verified prefixes and leaves are remembered.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> (usize, usize) {
        self.state.caches.sizes()
    }
}

/// The right to handle one request.
#[derive(Debug)]
#[must_use = "a handler runs under a permit"]
pub struct Permit {
    rule: Arc<str>,
    peer: SpiffeId,
    context: Option<Context>,
    charge: Charge,
}

impl Permit {
    /// The name of the rule that allowed it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Who called.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// The verified chain and what may still be spent; `None` for a request without a chain under a rule with
    /// `chain = "optional"`. Its handler must call on with [`CallOrigin::NoOrigination`](crate::CallOrigin::NoOrigination) only.
    #[must_use]
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// The chain's ID.
    #[must_use]
    pub fn chain_id(&self) -> Option<ChainId> {
        self.context.as_ref().map(Context::chain_id)
    }

    /// When the exchange has to end: from this second on.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixTime> {
        self.context.as_ref().map(Context::deadline)
    }

    /// Takes back what the request charged, because a later step refused it (step 11). The call stays known, so that it
    /// cannot be replayed.
    pub fn refund(self) {
        self.charge.refund();
    }
}

#[cfg(test)]
mod tests;
