//! Points in time for validity: whole seconds since the Unix epoch.
//!
//! This crate never asks for the time; callers hand in what their clock says.

use std::fmt;
use std::time::{Duration, SystemTime};

/// Whole seconds since 1970-01-01T00:00:00Z, never before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(u64);

impl UnixTime {
    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// As protobuf's signed seconds; a time that does not fit is the largest that does.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From signed seconds; a time before the epoch is the epoch.
    #[must_use]
    pub fn from_i64(secs: i64) -> Self {
        Self(u64::try_from(secs).unwrap_or(0))
    }

    /// This much later, in whole seconds; stops at the largest value.
    #[must_use]
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// This much earlier, in whole seconds; stops at the epoch.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_secs()))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// As rustls and webpki want it.
    #[must_use]
    pub fn to_pki(self) -> rustls_pki_types::UnixTime {
        rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.0))
    }
}

/// What time it is, by the two clocks that decisions need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For validity: certificates, deadlines and ages, in whole seconds. It may be set back.
    pub wall: UnixTime,
    /// For rates: the time since a fixed point of this process, by a clock that never goes back.
    pub mono: Duration,
}

impl From<SystemTime> for UnixTime {
    /// A time before the epoch is the epoch.
    fn from(time: SystemTime) -> Self {
        Self(
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
        )
    }
}

impl From<rustls_pki_types::UnixTime> for UnixTime {
    fn from(time: rustls_pki_types::UnixTime) -> Self {
        Self(time.as_secs())
    }
}

impl fmt::Display for UnixTime {
    /// RFC 3339 in UTC, such as `2026-01-31T10:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = time::OffsetDateTime::from_unix_timestamp(self.as_i64())
            .ok()
            .and_then(|t| {
                t.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            });
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "@{}", self.0),
        }
    }
}
