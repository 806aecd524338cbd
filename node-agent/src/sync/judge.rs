//! What a refusal of the server means for this node (SPIRE's node agent decides alike). Pure: what it says is done in
//! [`super::reattest`].

use std::time::Duration;

use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::dial::Cause;

use crate::client::CallError;
use crate::node_attestor::Rebootstrap;

/// How far the syncer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first sync has not succeeded yet.
    Starting,
    /// Callers rely on this node agent.
    Running,
}

/// What the answer to a refusal depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Situation {
    pub(super) phase: Phase,
    /// The server lets this node attest again.
    pub(super) reattestable: bool,
    /// There is an older SVID on disk than the one in use.
    pub(super) has_older_svid: bool,
    /// Whether trust may be taken from its source again.
    pub(super) rebootstrap: Rebootstrap,
    /// For how long the server has shown a certificate of an unknown authority.
    pub(super) unknown_for: Duration,
}

/// How a call failed, as far as it says something about this node's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server refuses this node, and says why.
    Denied(Reason),
    /// The server's certificate is of an authority that is not in the trust bundle.
    UnknownAuthority,
    /// Anything else, which says nothing about this node.
    Other,
}

impl Refusal {
    pub(super) fn of(error: &CallError) -> Self {
        match (error.denied(), error.cause()) {
            (Some(reason), _) => Self::Denied(reason),
            (None, Some(Cause::UnknownAuthority)) => Self::UnknownAuthority,
            (None, _) => Self::Other,
        }
    }
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The same call is worth another try later.
    Retry,
    /// Use the SVID before the one in use.
    UseOlderSvid,
    /// Attest again; end as not accepted for this reason if that fails.
    Reattest(Reason),
    /// Wait this much longer before trust is taken from its source again.
    AwaitRebootstrap(Duration),
    /// Take trust from its source again, and attest.
    Rebootstrap,
    /// End the node agent.
    End(Ending),
}

/// Why the node agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server has banned this node. Its identity is removed from disk.
    Banned,
    /// The server does not accept this node's identity. It is removed from disk.
    NotAccepted(Reason),
    /// The server can't be verified, and trust may not be taken from its source again.
    UnknownAuthority,
    /// Trust should be taken from its source again, and the server does not let this node attest again.
    NotReattestable,
}

pub(super) fn judge(situation: &Situation, refusal: Refusal) -> Action {
    match refusal {
        Refusal::Other => Action::Retry,
        Refusal::Denied(Reason::AgentBanned) => Action::End(Ending::Banned),
        // A refusal without a reason may be one of this call alone.
        Refusal::Denied(Reason::Unknown) => Action::Retry,
        Refusal::Denied(reason) => not_accepted(situation, reason),
        Refusal::UnknownAuthority => unknown_authority(situation),
    }
}

fn not_accepted(situation: &Situation, reason: Reason) -> Action {
    match situation.phase {
        // A process that was killed while it renewed left two SVIDs, and only the server knows which of them counts.
        Phase::Starting if situation.has_older_svid => Action::UseOlderSvid,
        Phase::Running if situation.reattestable => Action::Reattest(reason),
        Phase::Starting | Phase::Running => Action::End(Ending::NotAccepted(reason)),
    }
}

/// Either the server was set up anew, or another one answers in its place. Only the operator can have said that trust may
/// be taken from its source again.
fn unknown_authority(situation: &Situation) -> Action {
    let delay = match (situation.rebootstrap, situation.reattestable) {
        (Rebootstrap::Never, _) | (Rebootstrap::Auto(_), false) => {
            return Action::End(Ending::UnknownAuthority);
        }
        (Rebootstrap::Always(_), false) => return Action::End(Ending::NotReattestable),
        (Rebootstrap::Auto(delay) | Rebootstrap::Always(delay), true) => delay,
    };
    match delay.saturating_sub(situation.unknown_for) {
        Duration::ZERO => Action::Rebootstrap,
        left => Action::AwaitRebootstrap(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(60);

    const STARTING: Situation = Situation {
        phase: Phase::Starting,
        reattestable: false,
        has_older_svid: false,
        rebootstrap: Rebootstrap::Never,
        unknown_for: Duration::ZERO,
    };
    const RUNNING: Situation = Situation {
        phase: Phase::Running,
        ..STARTING
    };

    #[test]
    fn refusals_without_a_reason_are_tried_again() {
        for situation in [STARTING, RUNNING] {
            for refusal in [Refusal::Other, Refusal::Denied(Reason::Unknown)] {
                assert_eq!(judge(&situation, refusal), Action::Retry, "{situation:?}");
            }
        }
    }

    #[test]
    fn a_banned_node_ends_whatever_else_it_could_do() {
        let situation = Situation {
            reattestable: true,
            has_older_svid: true,
            ..STARTING
        };
        for situation in [situation, RUNNING] {
            let action = judge(&situation, Refusal::Denied(Reason::AgentBanned));
            assert_eq!(action, Action::End(Ending::Banned), "{situation:?}");
        }
    }

    #[test]
    fn a_node_that_is_not_accepted_does_what_its_phase_allows() {
        let older = |situation| Situation {
            has_older_svid: true,
            ..situation
        };
        let again = |situation| Situation {
            reattestable: true,
            ..situation
        };
        for reason in [
            Reason::AgentExpired,
            Reason::AgentNotAttested,
            Reason::AgentNotActive,
            Reason::AgentMustReattest,
        ] {
            let end = Action::End(Ending::NotAccepted(reason));
            for (situation, action) in [
                (STARTING, end),
                (older(STARTING), Action::UseOlderSvid),
                (older(again(STARTING)), Action::UseOlderSvid),
                (again(STARTING), end),
                (RUNNING, end),
                (older(RUNNING), end),
                (again(RUNNING), Action::Reattest(reason)),
            ] {
                let judged = judge(&situation, Refusal::Denied(reason));
                assert_eq!(judged, action, "{situation:?} {reason:?}");
            }
        }
    }

    #[test]
    fn an_unknown_authority_is_believed_only_as_configured() {
        let end = Action::End(Ending::UnknownAuthority);
        let second = Duration::from_secs(1);
        for (rebootstrap, reattestable, unknown_for, action) in [
            (Rebootstrap::Never, false, DELAY, end),
            (Rebootstrap::Never, true, DELAY, end),
            (Rebootstrap::Auto(DELAY), false, DELAY, end),
            (
                Rebootstrap::Always(DELAY),
                false,
                Duration::ZERO,
                Action::End(Ending::NotReattestable),
            ),
            (
                Rebootstrap::Auto(DELAY),
                true,
                Duration::ZERO,
                Action::AwaitRebootstrap(DELAY),
            ),
            (
                Rebootstrap::Always(DELAY),
                true,
                DELAY - second,
                Action::AwaitRebootstrap(second),
            ),
            (Rebootstrap::Auto(DELAY), true, DELAY, Action::Rebootstrap),
            (
                Rebootstrap::Always(DELAY),
                true,
                DELAY + second,
                Action::Rebootstrap,
            ),
        ] {
            for phase in [Phase::Starting, Phase::Running] {
                let situation = Situation {
                    phase,
                    reattestable,
                    has_older_svid: true,
                    rebootstrap,
                    unknown_for,
                };
                let judged = judge(&situation, Refusal::UnknownAuthority);
                assert_eq!(judged, action, "{situation:?}");
            }
        }
    }
}
