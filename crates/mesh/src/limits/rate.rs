//! Rates as policies write them: `10/s burst 20`. The buckets are [`countersign_limits::gcra`]'s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use countersign_limits::gcra;

/// The most calls per unit of time that a rate may name.
pub(crate) const MAX_CALLS: u32 = 1_000_000;
/// The largest burst that a rate may name.
pub(crate) const MAX_BURST: u32 = 1_000_000;

/// How many calls may come per second, minute or hour, and how many at once: `10/s burst 20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    calls: u32,
    unit: Unit,
    gcra: gcra::Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const fn span(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(3_600),
        }
    }
}

/// A text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate is written \"<calls>/<s|m|h> burst <at once>\", such as \"10/s burst 20\", with both numbers from 1 to 1000000"
)]
pub struct InvalidRate;

impl Rate {
    /// This many calls per second, and at most `burst` at once. Zero counts as one.
    #[must_use]
    pub const fn per_second(calls: u32, burst: u32) -> Self {
        Self::of(calls, Unit::Second, burst)
    }

    const fn of(calls: u32, unit: Unit, burst: u32) -> Self {
        Self {
            calls: if calls == 0 { 1 } else { calls },
            unit,
            gcra: gcra::Rate::new(calls, unit.span(), burst),
        }
    }

    /// The rate as its bucket wants it.
    pub(crate) const fn gcra(self) -> gcra::Rate {
        self.gcra
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, burst) = text.split_once(" burst ").ok_or(InvalidRate)?;
        let (calls, unit) = rate.split_once('/').ok_or(InvalidRate)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(InvalidRate),
        };
        Ok(Self::of(
            number(calls, MAX_CALLS)?,
            unit,
            number(burst, MAX_BURST)?,
        ))
    }
}

fn number(text: &str, most: u32) -> Result<u32, InvalidRate> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidRate);
    }
    text.parse()
        .ok()
        .filter(|n| (1..=most).contains(n))
        .ok_or(InvalidRate)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit} burst {}", self.calls, self.gcra.burst())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_read_and_printed() {
        for text in ["50/s burst 100", "1/m burst 1", "1000000/h burst 1000000"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for bad in [
            "",
            "50/s",
            "50 burst 3",
            "0/s burst 1",
            "1/s burst 0",
            "1/d burst 1",
            "1/s burst 1000001",
            "+1/s burst 1",
            "1000001/s burst 1",
            " 1/s burst 1",
            "1/s  burst 1",
            "1/s burst 1 ",
            "1.5/s burst 1",
            "-1/s burst 1",
        ] {
            assert_eq!(bad.parse::<Rate>(), Err(InvalidRate), "{bad}");
        }
    }
}
