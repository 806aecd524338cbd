//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

use std::time::Duration;

use thiserror::Error;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    /// No number, no unit, or something else between them.
    #[error("a duration is numbers with units, such as \"90s\", \"1h30m\" or \"1.5h\"")]
    Malformed,
    /// A unit other than `ns`, `us`, `ms`, `s`, `m` and `h`.
    #[error("the units of a duration are ns, us, ms, s, m and h")]
    UnknownUnit,
    /// Below zero.
    #[error("a duration must not be negative")]
    Negative,
    /// More than Go's `time.Duration` holds: about 292 years.
    #[error("the duration is too long")]
    TooLong,
}

/// Reads a duration in the syntax of Go's `time.ParseDuration`, without negative ones. Digits beyond the nanosecond
/// are cut off.
///
/// # Errors
///
/// Says which rule the text breaks.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    if text.starts_with('-') {
        return Err(InvalidDuration::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(InvalidDuration::Malformed);
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let (part, after) = component(rest)?;
        nanos = nanos.checked_add(part).ok_or(InvalidDuration::TooLong)?;
        rest = after;
    }
    let nanos = i64::try_from(nanos).map_err(|_| InvalidDuration::TooLong)?;
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| InvalidDuration::TooLong)
}

/// One number with its unit, in nanoseconds, and what follows it.
fn component(text: &str) -> Result<(u128, &str), InvalidDuration> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(InvalidDuration::Malformed);
    }
    let end = rest
        .find(|next: char| next.is_ascii_digit() || next == '.')
        .unwrap_or(rest.len());
    let (name, rest) = rest
        .split_at_checked(end)
        .ok_or(InvalidDuration::Malformed)?;
    let unit = unit(name)?;
    let whole = number(whole)?
        .checked_mul(unit)
        .ok_or(InvalidDuration::TooLong)?;
    // Twelve digits are below a nanosecond even of an hour.
    let fraction: String = fraction.chars().take(15).collect();
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    let part = number(&fraction)?.saturating_mul(unit) / scale;
    Ok((
        whole.checked_add(part).ok_or(InvalidDuration::TooLong)?,
        rest,
    ))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|next: char| !next.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn number(digits: &str) -> Result<u128, InvalidDuration> {
    if digits.is_empty() {
        return Ok(0);
    }
    digits.parse().map_err(|_| InvalidDuration::TooLong)
}

fn unit(name: &str) -> Result<u128, InvalidDuration> {
    match name {
        "ns" => Ok(1),
        // Both micro signs: U+00B5 and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => Ok(NANOS_PER_SECOND / 1_000_000),
        "ms" => Ok(NANOS_PER_SECOND / 1_000),
        "s" => Ok(NANOS_PER_SECOND),
        "m" => Ok(60 * NANOS_PER_SECOND),
        "h" => Ok(3_600 * NANOS_PER_SECOND),
        "" => Err(InvalidDuration::Malformed),
        _ => Err(InvalidDuration::UnknownUnit),
    }
}
