//! What people, and the language models that act for them, read of each reason.

use super::Reason;

impl Reason {
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
