//! Refusals: why a call was not permitted, and how that is said on the wire and to the application.
//!
//! `docs/call-chains.md`, section 6. `reason` lists the reasons with their codes, `text` what people read of each.

mod reason;
mod text;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;

pub use self::reason::{GrpcCode, Reason, Retry};

use crate::chain::ChainId;

/// The response header that carries the reason beside the problem document.
pub const REFUSAL_HEADER: &str = "agent-refusal";
/// The domain of the `google.rpc.ErrorInfo` of a gRPC refusal.
pub const ERROR_DOMAIN: &str = "countersign.dev";
/// The longest text from a callee that is logged, in characters.
const MAX_REMOTE_TEXT: usize = 256;

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

    pub(crate) fn with_rule(mut self, rule: Option<&Arc<str>>) -> Self {
        self.0.rule = self.0.rule.or_else(|| rule.cloned());
        self
    }

    pub(crate) fn with_chain_id(mut self, id: ChainId, hop: u8) -> Self {
        self.0.chain = Some((id, hop));
        self
    }

    pub(crate) fn with_limit(mut self, name: &'static str, value: &impl fmt::Display) -> Self {
        self.0.limit = Some(Limit {
            name,
            value: value.to_string(),
        });
        self
    }

    pub(crate) fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    pub(crate) fn with_time(mut self, time: UnixTime) -> Self {
        self.0.time = Some(time);
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
    fn a_delay_is_rounded_up_to_whole_seconds() {
        let after = |millis| {
            Refusal::new(Reason::RateLimited, "")
                .with_retry_after(Duration::from_millis(millis))
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
