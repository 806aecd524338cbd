//! Tells from a newly signed certificate how far this machine's clock is from the server's.

use std::fmt;
use std::time::Duration;

use countersign_identity::issue::BACKDATE;
use countersign_identity::{UnixTime, X509Svid};

/// The largest difference of this machine's clock and the server's that is put up with.
pub(crate) const MAX_SKEW: Duration = Duration::from_secs(60);

/// Whose clock is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skew {
    /// This machine's is behind the server's by this much.
    Behind(Duration),
    /// This machine's is ahead of the server's by this much.
    Ahead(Duration),
}

impl Skew {
    /// The difference shown by an SVID that was signed just now, if it is more than [`MAX_SKEW`]. Servers date back by
    /// [`BACKDATE`].
    #[must_use]
    pub(crate) fn of_new(svid: &X509Svid, now: UnixTime) -> Option<Self> {
        Self::between(svid.not_before().after(BACKDATE), now)
    }

    fn between(server: UnixTime, here: UnixTime) -> Option<Self> {
        let (behind, ahead) = (server.since(here), here.since(server));
        match () {
            () if behind > MAX_SKEW => Some(Self::Behind(behind)),
            () if ahead > MAX_SKEW => Some(Self::Ahead(ahead)),
            () => None,
        }
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, direction) = match self {
            Self::Behind(by) => (by, "behind"),
            Self::Ahead(by) => (by, "ahead of"),
        };
        write!(
            f,
            "this machine's clock is {} s {direction} the server's, and at most {} s are put up with: set this machine's \
             clock, or the server's if that is the wrong one",
            by.as_secs(),
            MAX_SKEW.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_put_up_with_and_no_more_either_way() {
        let at = UnixTime::from_secs;
        assert_eq!(Skew::between(at(1000), at(1060)), None);
        assert_eq!(Skew::between(at(1060), at(1000)), None);
        assert_eq!(
            Skew::between(at(1000), at(1061)),
            Some(Skew::Ahead(Duration::from_secs(61)))
        );
        assert_eq!(
            Skew::between(at(1061), at(1000)),
            Some(Skew::Behind(Duration::from_secs(61)))
        );
        assert!(
            Skew::Behind(Duration::from_secs(90))
                .to_string()
                .starts_with("this machine's clock is 90 s behind")
        );
    }
}
