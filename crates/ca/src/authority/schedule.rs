//! When an authority is replaced: pure rules over lifetimes, without clock or I/O.
//!
//! The thresholds are SPIRE's, so that a bundle is published as early as its peers expect: the next authority is prepared
//! (and published) when half of the lifetime is left, at most 30 days before the end; it becomes active when a sixth is
//! left, at most 7 days before. Between the two every peer has the time to learn the new authority.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_identity::issue::BACKDATE;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PREPARE_AT_MOST: Duration = Duration::from_secs(30 * DAY.as_secs());
const ACTIVATE_AT_MOST: Duration = Duration::from_secs(7 * DAY.as_secs());
/// How long an expired authority stays in the bundle, at most; a shorter-lived one stays for its own lifetime, so that
/// the number of authorities in the bundle is bounded whatever the lifetime is.
const KEEP_EXPIRED_AT_MOST: Duration = DAY;

/// The validity of a certificate, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from this second.
    pub not_before: UnixTime,
    /// Valid to this second.
    pub not_after: UnixTime,
}

impl Validity {
    /// The validity of an authority that is made now: back-dated as a certificate is.
    #[must_use]
    pub const fn of_ttl(ttl: Duration, now: UnixTime) -> Self {
        Self {
            not_before: now.before(BACKDATE),
            not_after: now.after(ttl),
        }
    }

    /// The whole span, the back-dating included.
    #[must_use]
    pub const fn lifetime(self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(self, now: UnixTime) -> bool {
        self.not_after <= now
    }

    /// When the next authority is due to be prepared.
    #[must_use]
    pub fn prepare_next_at(self) -> UnixTime {
        self.not_after
            .before((self.lifetime() / 2).min(PREPARE_AT_MOST))
    }

    /// When the prepared authority is due to become active.
    #[must_use]
    pub fn activate_next_at(self) -> UnixTime {
        self.not_after
            .before((self.lifetime() / 6).min(ACTIVATE_AT_MOST))
    }

    /// When this prepared authority takes over from the active one. If it was prepared late, because the server was down at
    /// the time, it waits for half of the remaining time, so that peers can still learn of it.
    #[must_use]
    fn hand_over_at(self, prepared: Self) -> UnixTime {
        let published = prepared.not_before.after(BACKDATE);
        let half_left = self.not_after.before(self.not_after.since(published) / 2);
        half_left.max(self.activate_next_at())
    }

    /// When an SVID is due for renewal: after half of its lifetime, without jitter (a server has one SVID).
    #[must_use]
    pub fn half_life(self) -> UnixTime {
        self.not_after.before(self.lifetime() / 2)
    }

    /// When an expired authority leaves the bundle.
    #[must_use]
    pub fn prune_at(self) -> UnixTime {
        prune_at(self.not_after, self.lifetime())
    }
}

/// When an authority that expired at `end` after living for `lifetime` leaves the bundle.
#[must_use]
pub fn prune_at(end: UnixTime, lifetime: Duration) -> UnixTime {
    end.after(lifetime.min(KEEP_EXPIRED_AT_MOST))
}

/// The next step of an authority's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    WaitUntil(UnixTime),
    /// Make the next authority and publish it.
    Prepare,
    /// Let the prepared authority sign.
    Activate,
}

/// Decides the next step from the validity of the active and of the prepared authority.
///
/// An expired prepared authority counts as none.
#[must_use]
pub fn next_step(active: Option<Validity>, prepared: Option<Validity>, now: UnixTime) -> Step {
    let prepared = prepared.filter(|p| !p.is_over(now));
    match (active, prepared) {
        // Published, and peers may not know it yet.
        (Some(active), Some(prepared)) if now < active.hand_over_at(prepared) => {
            Step::WaitUntil(active.hand_over_at(prepared))
        }
        // Also without an active one: at a first start nothing could be signed while peers learn of it.
        (_, Some(_)) => Step::Activate,
        (Some(active), None) if now < active.prepare_next_at() => {
            Step::WaitUntil(active.prepare_next_at())
        }
        (_, None) => Step::Prepare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn validity(from: u64, to: u64) -> Validity {
        Validity {
            not_before: UnixTime::from_secs(from),
            not_after: UnixTime::from_secs(to),
        }
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[test]
    fn a_day_long_authority_is_followed_at_12_and_at_20_hours() {
        let active = validity(0, 24 * HOUR);
        let next = validity(12 * HOUR, 36 * HOUR);
        assert_eq!(
            next_step(Some(active), None, at(0)),
            Step::WaitUntil(at(12 * HOUR))
        );
        assert_eq!(
            next_step(Some(active), None, at(12 * HOUR - 1)),
            Step::WaitUntil(at(12 * HOUR))
        );
        assert_eq!(next_step(Some(active), None, at(12 * HOUR)), Step::Prepare);
        assert_eq!(
            next_step(Some(active), Some(next), at(12 * HOUR)),
            Step::WaitUntil(at(20 * HOUR))
        );
        assert_eq!(
            next_step(Some(active), Some(next), at(20 * HOUR)),
            Step::Activate
        );
        assert_eq!(
            next_step(Some(active), Some(next), at(40 * HOUR)),
            Step::Prepare
        );
    }

    #[test]
    fn an_authority_prepared_late_waits_half_of_the_time_left() {
        let active = validity(0, 24 * HOUR);
        let late = validity(22 * HOUR - BACKDATE.as_secs(), 46 * HOUR);
        assert_eq!(
            next_step(Some(active), Some(late), at(22 * HOUR)),
            Step::WaitUntil(at(23 * HOUR))
        );
        assert_eq!(
            next_step(Some(active), Some(late), at(23 * HOUR)),
            Step::Activate
        );
    }

    #[test]
    fn long_lived_authorities_rotate_30_and_7_days_before_the_end() {
        let year = validity(0, 365 * 24 * HOUR);
        assert_eq!(year.prepare_next_at(), at(335 * 24 * HOUR));
        assert_eq!(year.activate_next_at(), at(358 * 24 * HOUR));
    }

    #[test]
    fn a_first_start_prepares_and_then_activates_at_once() {
        assert_eq!(next_step(None, None, at(5)), Step::Prepare);
        assert_eq!(
            next_step(None, Some(validity(0, 60)), at(5)),
            Step::Activate
        );
    }

    #[test]
    fn an_expired_prepared_authority_is_not_activated() {
        let over = validity(0, 60);
        assert_eq!(next_step(Some(over), Some(over), at(61)), Step::Prepare);
        assert_eq!(
            next_step(Some(over), Some(validity(40, 100)), at(61)),
            Step::Activate
        );
    }

    #[test]
    fn expired_authorities_stay_for_a_day_or_for_their_lifetime() {
        assert_eq!(validity(0, 48 * HOUR).prune_at(), at(72 * HOUR));
        assert_eq!(validity(0, 60).prune_at(), at(120));
    }
}
