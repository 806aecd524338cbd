//! The caller's side: pays from the ledger, signs the next link, and refuses what the callee would refuse.
//!
//! `docs/call-chains.md`, sections 5 and 8.

mod sign;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use countersign_identity::key::KeyError;
use countersign_identity::{Now, SpiffeId, UnixTime};

pub use self::sign::{SigningIdentity, UnusableKey};

use crate::chain::certs::MAX_CERTS_LEN;
use crate::chain::{Carrier, ChainId, ChainStart, Claims, MAX_CHAIN_LEN, codec};
use crate::check;
use crate::context::{Context, Forward, Grant};
use crate::policy::Policy;
use crate::policy::action::Action;
use crate::policy::rule::CallPath;
use crate::refusal::{Reason, Refusal};

/// What a call comes from.
#[derive(Clone, Copy, Debug)]
pub enum CallOrigin<'a> {
    /// A context: of an inbound request, or one that [`start`] opened.
    Context(&'a Context),
    /// No context. A workload with the right to originate starts a chain for this one call; any other is refused.
    NewChain,
    /// The handler of a request that came without a chain, under a rule with `chain = "optional"`. It may not call on,
    /// whatever its workload may originate.
    NoOrigination,
}

/// A call that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// The workload that is called; TLS accepts exactly this ID.
    pub callee: &'a SpiffeId,
    /// The method.
    pub method: &'a str,
    /// The path as it will be sent, without the query.
    pub path: &'a str,
    /// What the callee gets.
    pub grant: Grant,
}

/// Why a call was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The callee would refuse it, or this workload may not make it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key did not sign.
    #[error("could not sign a link as {id}")]
    Key {
        /// Who was to sign.
        id: SpiffeId,
        /// Why it failed.
        source: KeyError,
    },
    /// The system gave no random numbers.
    #[error(
        "could not draw random bytes for the ID of a call: is the system's random source working?"
    )]
    Random,
}

/// Opens a context for one piece of work: all its calls share chain ID, deadline and budget.
///
/// # Errors
/// `origination_denied` without an originate rule for this workload.
pub fn start(
    policy: &Policy,
    identity: &SigningIdentity,
    at: Now,
) -> Result<Context, OutboundError> {
    let rule = check::originate(policy, identity.id())?;
    let deadline = at.wall.after(rule.deadline);
    let limits = (rule.max_hops, deadline, rule.budget);
    Ok(Context::started(
        identity.id().clone(),
        ChainId::from_bytes(random()?),
        limits,
    ))
}

/// Pays for one attempt of a call and signs its link. Every attempt needs its own.
///
/// # Errors
/// [`OutboundError::Refused`] with the reason that the callee would give; nothing is then paid.
pub fn prepare(
    policy: &Policy,
    identity: &SigningIdentity,
    origin: CallOrigin<'_>,
    call: &CallRequest<'_>,
    at: Now,
) -> Result<OutgoingCall, OutboundError> {
    let context = match origin {
        CallOrigin::Context(context) => context.clone(),
        CallOrigin::NewChain => start(policy, identity, at)?,
        CallOrigin::NoOrigination => {
            let detail = "the request that this call comes from carried no chain";
            return Err(Refusal::new(Reason::OriginationDenied, detail).into());
        }
    };
    let of_chain = |refusal: Refusal| refusal.with_chain_id(context.chain_id(), context.hop() + 1);
    let (action, grant) = check_call(policy, identity, &context, call, at).map_err(of_chain)?;
    // Nothing is appended to a chain whose last signature has not been checked (section 3).
    context.check_signature(at)?;
    let hops_left = context.max_hops().saturating_sub(context.hop() + 1);
    let pay = |remaining| grant.unwrap_or_else(|| default_grant(remaining, hops_left));
    // Other calls of this context may have spent what was left when it was checked.
    let granted = context
        .ledger()
        .pay(pay)
        .ok_or_else(|| of_chain(check::exhausted()))?;
    let sent = seal(identity, &context, call, &action, granted, at);
    // No request goes out, so neither the call nor its grant was spent.
    if sent.is_err() {
        context.ledger().refund(granted.saturating_add(1));
    }
    sent
}

/// The default split of section 5: a quarter of what remains after the call, or as many calls as hops are left.
fn default_grant(remaining: u16, hops_left: u8) -> u16 {
    (remaining / 4).max(remaining.min(hops_left.into()))
}

/// What the callee would refuse, and what is to be granted if that is said.
fn check_call<'a>(
    policy: &Policy,
    identity: &SigningIdentity,
    context: &Context,
    call: &CallRequest<'a>,
    at: Now,
) -> Result<(Action<'a>, Option<u16>), Refusal> {
    let action = Action::new(call.method, call.path)
        .map_err(|why| Refusal::new(Reason::ActionDenied, why.to_string()))?;
    if identity.id() != context.holder() {
        let detail = format!(
            "{} cannot use the context of {}",
            identity.id(),
            context.holder()
        );
        return Err(Refusal::new(Reason::ChainAudienceMismatch, detail));
    }
    let edge = policy.edge(identity.id(), call.callee);
    let members: Vec<_> = context.members().collect();
    let call_path = CallPath {
        originator: Some(context.originator()),
        via: &members,
    };
    let rule = edge
        .select(&action, &call_path)
        .map(|selected| selected.rule.as_ref());
    let max_hops = rule.map_or(policy.max_hops(), |rule| rule.max_hops);
    let reentry = rule.map_or(0, |rule| rule.reentry);
    check::deadline(context.deadline(), at.wall)
        .and_then(|()| check::hops(context.hop() + 1, max_hops.min(context.max_hops())))
        .and_then(|()| check::budget(context.remaining()))
        .and_then(|()| check::cycle(&members, call.callee, reentry))
        .map_err(|refusal| refusal.with_rule(rule.map(|rule| &rule.name)))?;
    let grant = match call.grant {
        Grant::Exactly(calls) => Some(calls),
        Grant::ByRule => rule.and_then(|rule| rule.grant),
    };
    Ok((action, grant))
}

/// Signs and encodes the link that a payment was made for.
fn seal(
    identity: &SigningIdentity,
    context: &Context,
    call: &CallRequest<'_>,
    action: &Action<'_>,
    granted: u16,
    at: Now,
) -> Result<OutgoingCall, OutboundError> {
    let (chain, links) = context.encoded();
    let start = (links == 0).then(|| ChainStart {
        iss: context.originator().clone(),
        chain: context.chain_id(),
    });
    let claims = Claims {
        aud: call.callee.clone(),
        exp: context.deadline().as_secs(),
        iat: at.wall.as_secs(),
        cti: random()?,
        max_hops: context.max_hops(),
        budget: granted,
        action: action.to_claim(),
    };
    let link = identity.sign_link(&claims, start.as_ref(), &context.prefix())?;
    let bytes = codec::append(chain, links, &link);
    let too_large = |limit: &'static str, most: usize| {
        let detail = "the chain or its certificates are too large for one more call";
        let refusal = Refusal::new(Reason::HopLimitExceeded, detail).with_limit(limit, &most);
        refusal.with_chain_id(context.chain_id(), context.hop() + 1)
    };
    if bytes.len() > MAX_CHAIN_LEN {
        return Err(too_large("chain_bytes", MAX_CHAIN_LEN).into());
    }
    let certs = match context.forward() {
        Forward::Nothing => None,
        Forward::Certs(certs) => Some(certs),
        Forward::TooMuch => return Err(too_large("certificate_bytes", MAX_CERTS_LEN).into()),
    };
    Ok(OutgoingCall {
        context: context.clone(),
        bytes,
        certs,
        granted,
        open: AtomicU16::new(granted),
    })
}

fn random<const N: usize>() -> Result<[u8; N], OutboundError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| OutboundError::Random)?;
    Ok(bytes)
}

/// A paid and signed call, ready to be sent once.
#[derive(Debug)]
pub struct OutgoingCall {
    context: Context,
    bytes: Vec<u8>,
    certs: Option<Arc<[u8]>>,
    granted: u16,
    /// What of the grant was not taken back yet.
    open: AtomicU16,
}

impl OutgoingCall {
    /// The value of the field that carries the chain ([`Carrier::chain_field`]).
    #[must_use]
    pub fn chain_value(&self, carrier: Carrier) -> String {
        carrier.write(&self.bytes)
    }

    /// The value of the field that carries the certificates ([`Carrier::certs_field`]); `None` if there is no earlier
    /// signer.
    #[must_use]
    pub fn certs_value(&self, carrier: Carrier) -> Option<String> {
        self.certs.as_ref().map(|certs| carrier.write(certs))
    }

    /// The encoded chain.
    #[cfg(test)]
    pub(crate) fn chain_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The encoded certificates of the earlier signers, if there are any.
    #[cfg(test)]
    pub(crate) fn certs_bytes(&self) -> Option<&[u8]> {
        self.certs.as_deref()
    }

    /// The chain's ID.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.context.chain_id()
    }

    /// The length of the chain that is sent.
    #[must_use]
    pub fn hop(&self) -> u8 {
        self.context.hop() + 1
    }

    /// When the call has to be over: from this second on.
    #[must_use]
    pub fn deadline(&self) -> UnixTime {
        self.context.deadline()
    }

    /// How many calls the callee may make.
    #[must_use]
    pub fn granted(&self) -> u16 {
        self.granted
    }

    /// The callee refused: takes the grant back, once, if the reason says that the call was not accepted. The 1 that the
    /// call cost stays paid.
    pub fn refused(&self, reason: Reason) {
        if reason.returns_grant() {
            self.context
                .ledger()
                .refund(self.open.swap(0, Ordering::Relaxed));
        }
    }

    /// The context that paid, a new one if the call started a chain.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}
