//! The reasons of refusals, with their names on the wire, status codes and advice about retries.

use std::fmt;

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
    /// When [`Refusal::retry_after`](crate::Refusal::retry_after) has passed.
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
        match self.grpc_code() {
            GrpcCode::ResourceExhausted => 429,
            GrpcCode::InvalidArgument => 400,
            GrpcCode::Unauthenticated => 401,
            GrpcCode::Unavailable => 503,
            GrpcCode::PermissionDenied | GrpcCode::FailedPrecondition => 403,
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
    pub(crate) const fn returns_grant(self) -> bool {
        !matches!(
            self,
            Self::DigestMismatch | Self::PolicyDenied | Self::ApprovalRequired
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
}
