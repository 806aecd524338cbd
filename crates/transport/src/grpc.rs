//! The part of gRPC that concerns every server: the caller's deadline.

use std::time::Duration;

use http::HeaderMap;

/// The most digits of a timeout (gRPC over HTTP/2, "Timeout").
const MAX_DIGITS: usize = 8;

/// The timeout in the header `grpc-timeout`: 1 to 8 digits and a unit. A malformed header counts as none.
#[must_use]
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn timeout_of(text: &'static str) -> Option<Duration> {
        let name = HeaderName::from_static("grpc-timeout");
        timeout(&HeaderMap::from_iter([(
            name,
            HeaderValue::from_static(text),
        )]))
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        let hours = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(timeout_of("99999999H"), Some(hours));
        assert_eq!(timeout_of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout_of("10S"), Some(Duration::from_secs(10)));
        assert_eq!(timeout_of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout_of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(timeout_of("5n"), Some(Duration::from_nanos(5)));
        for wrong in [
            "",
            "S",
            "10",
            "123456789S",
            "1.5S",
            "-1S",
            "+1S",
            "10s",
            "3X",
            "1 S",
        ] {
            assert_eq!(timeout_of(wrong), None, "{wrong:?}");
        }
    }
}
