//! Refusals: why a call was not permitted, and how that is said on the wire and to the application.
//!
//! `docs/call-chains.md`, section 6.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;

use crate::chain::ChainId;

/// The response header that carries the reason beside the problem document.
pub const REFUSAL_HEADER: &str = "agent-refusal";
/// The domain of the `google.rpc.ErrorInfo` of a gRPC refusal.
pub const ERROR_DOMAIN: &str = "countersign.dev";
/// The longest text from a callee that is logged, in characters.
pub const MAX_REMOTE_TEXT: usize = 256;

const TYPE_PREFIX: &str = "https://countersign.dev/refusals/";

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The connection has no verified peer, or its certificate is no longer valid.
    NoPeerIdentity,
    /// An identity, a key or the chain is in quarantine.
    Quarantined,
    /// The policy is too old to permit anything.
    PolicyStale,
    /// The edge, the peer's failures or its share of a bounded map are used up for now.
    RateLimited,
    /// No rule allows this action on this edge, or the request is not the one that was signed.
    ActionDenied,
    /// No rule allows this caller to call this callee.
    EdgeDenied,
    /// The request carries no chain and the rule demands one.
    ChainRequired,
    /// The chain is not in the one form that is allowed, or contradicts itself.
    ChainMalformed,
    /// The chain was made for another callee or is presented by another caller.
    ChainAudienceMismatch,
    /// The originator has no right to start chains.
    OriginationDenied,
    /// The last link is too old, or a link is from the future.
    ChainStale,
    /// The chain's deadline has passed.
    ChainDeadlinePassed,
    /// The chain is longer than it may become.
    HopLimitExceeded,
    /// The calls that the chain, a link or an edge may still make are used up.
    ChainBudgetExhausted,
    /// The callee already stands in the chain.
    CycleDetected,
    /// A rule forbids what the chain came through, or demands what it did not come through.
    PathDenied,
    /// The rule does not serve this originator.
    OriginatorDenied,
    /// No certificate for the key that signed a link is known.
    ChainKeyUnknown,
    /// A signature, or the certificate behind it, does not hold.
    ChainSignatureInvalid,
    /// This call was already made.
    ChainReplayed,
    /// The originator starts chains faster than it may.
    NewChainRateLimited,
    /// The content is not what was signed.
    DigestMismatch,
    /// A context policy, or an unknown reason from another version.
    PolicyDenied,
    /// A person has to approve first.
    ApprovalRequired,
}

/// Whether and when the same work may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never: the same call will be refused again.
    No,
    /// Once, with a link made by the callee's time.
    Once,
    /// When [`Refusal::retry_after`] has passed.
    AfterDelay,
    /// Later, when the callee has its policy again.
    Later,
}

/// The status code of a refused gRPC call, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// 3
    InvalidArgument = 3,
    /// 7
    PermissionDenied = 7,
    /// 8
    ResourceExhausted = 8,
    /// 9
    FailedPrecondition = 9,
    /// 14
    Unavailable = 14,
    /// 16
    Unauthenticated = 16,
}

impl Reason {
    /// Every reason, in the order of the checks.
    pub const ALL: [Self; 24] = [
        Self::NoPeerIdentity,
        Self::Quarantined,
        Self::PolicyStale,
        Self::RateLimited,
        Self::ActionDenied,
        Self::EdgeDenied,
        Self::ChainRequired,
        Self::ChainMalformed,
        Self::ChainAudienceMismatch,
        Self::OriginationDenied,
        Self::ChainStale,
        Self::ChainDeadlinePassed,
        Self::HopLimitExceeded,
        Self::ChainBudgetExhausted,
        Self::CycleDetected,
        Self::PathDenied,
        Self::OriginatorDenied,
        Self::ChainKeyUnknown,
        Self::ChainSignatureInvalid,
        Self::ChainReplayed,
        Self::NewChainRateLimited,
        Self::DigestMismatch,
        Self::PolicyDenied,
        Self::ApprovalRequired,
    ];

    /// The name on the wire, such as `cycle_detected`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPeerIdentity => "no_peer_identity",
            Self::Quarantined => "quarantined",
            Self::PolicyStale => "policy_stale",
            Self::RateLimited => "rate_limited",
            Self::ActionDenied => "action_denied",
            Self::EdgeDenied => "edge_denied",
            Self::ChainRequired => "chain_required",
            Self::ChainMalformed => "chain_malformed",
            Self::ChainAudienceMismatch => "chain_audience_mismatch",
            Self::OriginationDenied => "origination_denied",
            Self::ChainStale => "chain_stale",
            Self::ChainDeadlinePassed => "chain_deadline_passed",
            Self::HopLimitExceeded => "hop_limit_exceeded",
            Self::ChainBudgetExhausted => "chain_budget_exhausted",
            Self::CycleDetected => "cycle_detected",
            Self::PathDenied => "path_denied",
            Self::OriginatorDenied => "originator_denied",
            Self::ChainKeyUnknown => "chain_key_unknown",
            Self::ChainSignatureInvalid => "chain_signature_invalid",
            Self::ChainReplayed => "chain_replayed",
            Self::NewChainRateLimited => "new_chain_rate_limited",
            Self::DigestMismatch => "digest_mismatch",
            Self::PolicyDenied => "policy_denied",
            Self::ApprovalRequired => "approval_required",
        }
    }

    /// The reason that a callee named. A name that this version does not know counts as [`Reason::PolicyDenied`].
    #[must_use]
    pub fn from_wire(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name)
            .unwrap_or(Self::PolicyDenied)
    }

    /// The URI of the problem type (RFC 9457).
    #[must_use]
    pub fn type_uri(self) -> String {
        format!("{TYPE_PREFIX}{}", self.as_str())
    }

    /// The status of the HTTP response.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::RateLimited | Self::NewChainRateLimited => 429,
            Self::ChainMalformed
            | Self::ChainSignatureInvalid
            | Self::ChainAudienceMismatch
            | Self::ChainReplayed
            | Self::ChainKeyUnknown
            | Self::DigestMismatch
            | Self::ChainStale => 400,
            Self::NoPeerIdentity => 401,
            Self::PolicyStale => 503,
            _ => 403,
        }
    }

    /// The status of the gRPC response.
    #[must_use]
    pub const fn grpc_code(self) -> GrpcCode {
        match self {
            Self::CycleDetected
            | Self::HopLimitExceeded
            | Self::ChainBudgetExhausted
            | Self::ChainDeadlinePassed => GrpcCode::FailedPrecondition,
            Self::RateLimited | Self::NewChainRateLimited => GrpcCode::ResourceExhausted,
            Self::ChainMalformed
            | Self::ChainSignatureInvalid
            | Self::ChainAudienceMismatch
            | Self::ChainReplayed
            | Self::ChainKeyUnknown
            | Self::DigestMismatch
            | Self::ChainStale => GrpcCode::InvalidArgument,
            Self::NoPeerIdentity => GrpcCode::Unauthenticated,
            Self::PolicyStale => GrpcCode::Unavailable,
            _ => GrpcCode::PermissionDenied,
        }
    }

    /// Whether the same work may be tried again.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::RateLimited | Self::NewChainRateLimited => Retry::AfterDelay,
            Self::ChainStale => Retry::Once,
            Self::PolicyStale => Retry::Later,
            _ => Retry::No,
        }
    }

    /// Whether a callee that refuses for this reason has done so before it accepted the call (steps 1 to 9), so that
    /// the caller takes back what it granted. Only [`OutgoingCall::refused`](crate::OutgoingCall::refused) needs it.
    #[must_use]
    pub const fn returns_grant(self) -> bool {
        !matches!(
            self,
            Self::DigestMismatch | Self::PolicyDenied | Self::ApprovalRequired
        )
    }

    /// A short title for people, the same for every refusal of this reason.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::NoPeerIdentity => "The caller has no verified identity",
            Self::Quarantined => "Someone in this chain is in quarantine",
            Self::PolicyStale => "The callee has no current policy",
            Self::RateLimited => "Too many calls",
            Self::ActionDenied => "This action is not allowed",
            Self::EdgeDenied => "This caller may not call this callee",
            Self::ChainRequired => "The call carries no chain",
            Self::ChainMalformed => "The chain is malformed",
            Self::ChainAudienceMismatch => "The chain is not for this call",
            Self::OriginationDenied => "The originator may not start chains",
            Self::ChainStale => "The chain's last link is not of this moment",
            Self::ChainDeadlinePassed => "The chain's deadline has passed",
            Self::HopLimitExceeded => "The chain is too long",
            Self::ChainBudgetExhausted => "The chain's calls are used up",
            Self::CycleDetected => "The callee is already part of this chain",
            Self::PathDenied => "The chain came along a forbidden path",
            Self::OriginatorDenied => "The rule does not serve this originator",
            Self::ChainKeyUnknown => "A link's key is unknown",
            Self::ChainSignatureInvalid => "A link's signature does not hold",
            Self::ChainReplayed => "This call was already made",
            Self::NewChainRateLimited => "Too many new chains",
            Self::DigestMismatch => "The content is not what was signed",
            Self::PolicyDenied => "The callee's policy refused the call",
            Self::ApprovalRequired => "A person has to approve this call first",
        }
    }

    /// What the application is told: what happened and what to do about it, in words of our own. The reader is often a
    /// language model, so nothing that a callee wrote ever stands in here.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoPeerIdentity => {
                "The call was refused because the callee could not verify this workload's identity. Do not retry; check that the workload is registered and has a valid certificate."
            }
            Self::Quarantined => {
                "The call was refused because a workload, key or chain involved is in quarantine. Stop this work; an operator has to lift the quarantine."
            }
            Self::PolicyStale => {
                "The call was refused because the callee has not heard from its policy server for too long. Try again later."
            }
            Self::RateLimited => {
                "The call was refused because this workload calls that callee too fast. Wait for the stated delay before the next call, and make fewer calls."
            }
            Self::ActionDenied => {
                "The call was refused because policy does not allow this action on this callee. Do not retry; use an allowed action or ask an operator for a rule."
            }
            Self::EdgeDenied => {
                "The call was refused because policy does not allow this workload to call that callee. Do not retry; ask an operator for a rule if the call is needed."
            }
            Self::ChainRequired => {
                "The call was refused because it carried no call chain. Make the call within the context of the request that caused it, through the mesh client."
            }
            Self::ChainMalformed => {
                "The call was refused because its call chain is not valid. Do not retry; this is a fault in the software that made the chain."
            }
            Self::ChainAudienceMismatch => {
                "The call was refused because its call chain was made for another callee or by another caller. Do not retry; call through a client made for this callee."
            }
            Self::OriginationDenied => {
                "The call was refused because it would start a new call chain, which this workload may not do. Make the call within the context of the request that caused it."
            }
            Self::ChainStale => {
                "The call was refused because the clocks of the two workloads differ too much or the call took too long to arrive. It may be tried once more; check the clocks."
            }
            Self::ChainDeadlinePassed => {
                "The call was refused because the time allowed for this piece of work is over. Stop this work and report what is done so far."
            }
            Self::HopLimitExceeded => {
                "The call was refused because this chain of calls has reached its greatest length. Do not delegate further; answer with what you have."
            }
            Self::ChainBudgetExhausted => {
                "The call was refused because this piece of work has used up the calls it may make. Do not call again for it; answer with what you have."
            }
            Self::CycleDetected => {
                "The call was refused because that callee already takes part in this chain of calls, so calling it again would be a loop. Do not retry or route around it; answer your own caller instead."
            }
            Self::PathDenied => {
                "The call was refused because policy forbids it for work that came this way. Do not retry; the work has to reach the callee along an allowed path."
            }
            Self::OriginatorDenied => {
                "The call was refused because the callee's rule does not serve the workload that started this chain. Do not retry."
            }
            Self::ChainKeyUnknown => {
                "The call was refused because the certificate of an earlier workload in the chain did not come along. Do not retry; this is a fault in the software of a workload in the chain."
            }
            Self::ChainSignatureInvalid => {
                "The call was refused because a signature in its call chain does not hold. Do not retry; an operator should look at the workloads in the chain."
            }
            Self::ChainReplayed => {
                "The call was refused because exactly this call was already made. Make a new call instead of repeating an old one."
            }
            Self::NewChainRateLimited => {
                "The call was refused because this workload starts new pieces of work too fast. Wait for the stated delay before starting the next one."
            }
            Self::DigestMismatch => {
                "The call was refused because its content was changed after it was signed. Do not retry; something between the workloads altered it."
            }
            Self::PolicyDenied => {
                "The call was refused by the callee's policy. Do not retry; ask an operator if the call is needed."
            }
            Self::ApprovalRequired => {
                "The call was refused because a person has to approve it first. Do not retry until the approval was given."
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A setting that a call ran into, with its value: `calls_per_chain=64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The setting's name as it stands in the policy, or a fixed one's.
    pub name: &'static str,
    /// Its value, in the policy's own notation.
    pub value: String,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// A call that was not permitted, with everything that may be said about it.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal(Box<Parts>);

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    reason: Reason,
    detail: String,
    rule: Option<Arc<str>>,
    chain: Option<(ChainId, u8)>,
    limit: Option<Limit>,
    retry_after: Option<Duration>,
    time: Option<UnixTime>,
    late: bool,
}

impl Refusal {
    /// A refusal with what is logged about it. The detail is for the callee's own log and never leaves the process.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            reason,
            detail: detail.into(),
            rule: None,
            chain: None,
            limit: None,
            retry_after: None,
            time: None,
            late: false,
        }))
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// What is logged: what was found, with which value. Stays in the process that refused.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The name of the rule that decided, where one did.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.0.rule.as_deref()
    }

    /// The chain's ID, where one was decoded.
    #[must_use]
    pub fn chain_id(&self) -> Option<ChainId> {
        self.0.chain.map(|(id, _)| id)
    }

    /// The length of the chain that was refused, where one was decoded.
    #[must_use]
    pub fn hop(&self) -> Option<u8> {
        self.0.chain.map(|(_, hop)| hop)
    }

    /// The setting that the call ran into.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.0.limit.as_ref()
    }

    /// How long to wait before the next attempt; only with [`Retry::AfterDelay`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The same in whole seconds, rounded up, at least 1, as `Retry-After` wants it.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.0
            .retry_after
            .map(|d| (d.as_secs() + u64::from(d.subsec_nanos() > 0)).max(1))
    }

    /// The callee's time, with [`Reason::ChainStale`].
    #[must_use]
    pub fn time(&self) -> Option<UnixTime> {
        self.0.time
    }

    /// Whether a retry can help, as the `retryable` member of the problem document.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.reason.retry() != Retry::No
    }

    /// Whether the signature of the *inbound* chain failed after its request had been permitted. The exchange that the
    /// request opened must then be ended too.
    #[must_use]
    pub fn ends_inbound(&self) -> bool {
        self.0.late
    }

    pub(crate) fn by_rule(mut self, rule: Option<&Arc<str>>) -> Self {
        self.0.rule = self.0.rule.or_else(|| rule.cloned());
        self
    }

    pub(crate) fn of_chain(mut self, id: ChainId, hop: u8) -> Self {
        self.0.chain = Some((id, hop));
        self
    }

    pub(crate) fn at_limit(mut self, name: &'static str, value: &impl fmt::Display) -> Self {
        self.0.limit = Some(Limit {
            name,
            value: value.to_string(),
        });
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    pub(crate) fn at_time(mut self, time: UnixTime) -> Self {
        self.0.time = Some(time);
        self
    }

    pub(crate) fn found_late(mut self) -> Self {
        self.0.late = true;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason, self.0.detail)?;
        if let Some(rule) = self.rule() {
            write!(f, " (rule {rule:?})")?;
        }
        if let Some(limit) = self.limit() {
            write!(f, " ({limit})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

impl std::error::Error for Refusal {}

/// What of a callee's text may be logged: printable ASCII, at most [`MAX_REMOTE_TEXT`] characters, the rest as `?`.
#[must_use]
pub fn loggable(remote: &str) -> String {
    remote
        .chars()
        .take(MAX_REMOTE_TEXT)
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_comes_back_from_the_wire() {
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(Reason::from_wire(reason.as_str()), reason);
            assert!(
                Reason::ALL[i + 1..]
                    .iter()
                    .all(|other| other.as_str() != reason.as_str())
            );
            assert!(reason.sentence().starts_with("The call was refused"));
            assert_eq!(
                reason.type_uri(),
                format!("https://countersign.dev/refusals/{reason}")
            );
        }
        assert_eq!(Reason::from_wire("made_up"), Reason::PolicyDenied);
        assert_eq!(Reason::from_wire(""), Reason::PolicyDenied);
    }

    #[test]
    fn statuses_are_those_of_section_six() {
        let rows: [(u16, GrpcCode, Retry, &[Reason]); 6] = [
            (
                403,
                GrpcCode::FailedPrecondition,
                Retry::No,
                &[
                    Reason::CycleDetected,
                    Reason::HopLimitExceeded,
                    Reason::ChainBudgetExhausted,
                    Reason::ChainDeadlinePassed,
                ],
            ),
            (
                403,
                GrpcCode::PermissionDenied,
                Retry::No,
                &[
                    Reason::EdgeDenied,
                    Reason::ActionDenied,
                    Reason::OriginatorDenied,
                    Reason::OriginationDenied,
                    Reason::ChainRequired,
                    Reason::PathDenied,
                    Reason::Quarantined,
                    Reason::PolicyDenied,
                    Reason::ApprovalRequired,
                ],
            ),
            (
                429,
                GrpcCode::ResourceExhausted,
                Retry::AfterDelay,
                &[Reason::RateLimited, Reason::NewChainRateLimited],
            ),
            (
                400,
                GrpcCode::InvalidArgument,
                Retry::No,
                &[
                    Reason::ChainMalformed,
                    Reason::ChainSignatureInvalid,
                    Reason::ChainAudienceMismatch,
                    Reason::ChainReplayed,
                    Reason::ChainKeyUnknown,
                    Reason::DigestMismatch,
                ],
            ),
            (
                400,
                GrpcCode::InvalidArgument,
                Retry::Once,
                &[Reason::ChainStale],
            ),
            (
                401,
                GrpcCode::Unauthenticated,
                Retry::No,
                &[Reason::NoPeerIdentity],
            ),
        ];
        let mut told = 0;
        for (status, code, retry, reasons) in rows {
            for reason in reasons {
                assert_eq!(
                    (reason.http_status(), reason.grpc_code(), reason.retry()),
                    (status, code, retry),
                    "{reason}"
                );
                told += 1;
            }
        }
        let stale = Reason::PolicyStale;
        assert_eq!(
            (stale.http_status(), stale.grpc_code(), stale.retry()),
            (503, GrpcCode::Unavailable, Retry::Later)
        );
        assert_eq!(told + 1, Reason::ALL.len());
    }

    #[test]
    fn a_delay_is_rounded_up_to_whole_seconds() {
        let after = |millis| {
            Refusal::new(Reason::RateLimited, "")
                .after(Duration::from_millis(millis))
                .retry_after_secs()
        };
        assert_eq!(
            [after(0), after(1), after(1_000), after(1_001)],
            [Some(1), Some(1), Some(1), Some(2)]
        );
    }

    #[test]
    fn what_a_callee_wrote_is_logged_short_and_printable() {
        assert_eq!(
            loggable("line\nbreak \u{1b}[31m \u{202e}x"),
            "line?break ?[31m ?x"
        );
        assert_eq!(loggable(&"x".repeat(1_000)).len(), MAX_REMOTE_TEXT);
    }
}
