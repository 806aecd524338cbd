//! The header forms of a chain and of the certificates that come with it.
//!
//! `docs/call-chains.md`, section 2.

use base64::Engine as _;
use base64::engine::{GeneralPurpose, general_purpose};

use super::Malformed;

/// The HTTP header that carries a chain.
pub const CHAIN_HEADER: &str = "agent-chain";
/// The HTTP header that carries the certificates of the earlier signers.
pub const CERTS_HEADER: &str = "agent-chain-certs";
/// The gRPC metadata that carries a chain.
pub const CHAIN_METADATA: &str = "agent-chain-bin";
/// The gRPC metadata that carries the certificates of the earlier signers.
pub const CERTS_METADATA: &str = "agent-chain-certs-bin";

/// Which kind of request carries the chain. The content type alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// Any request that is not gRPC: `agent-chain` and `agent-chain-certs`, RFC 9651 Byte Sequences.
    Http,
    /// A gRPC request: `agent-chain-bin` and `agent-chain-certs-bin`, base64.
    Grpc,
}

impl Carrier {
    /// gRPC for the content type `application/grpc`, or that followed by `+` or `;`; HTTP for anything else.
    #[must_use]
    pub fn of_content_type(content_type: Option<&[u8]>) -> Self {
        match content_type.and_then(|t| t.strip_prefix(b"application/grpc")) {
            Some([] | [b'+' | b';', ..]) => Self::Grpc,
            _ => Self::Http,
        }
    }

    /// The name of the field that carries the chain.
    #[must_use]
    pub const fn chain_field(self) -> &'static str {
        match self {
            Self::Http => CHAIN_HEADER,
            Self::Grpc => CHAIN_METADATA,
        }
    }

    /// The name of the field that carries the certificates.
    #[must_use]
    pub const fn certs_field(self) -> &'static str {
        match self {
            Self::Http => CERTS_HEADER,
            Self::Grpc => CERTS_METADATA,
        }
    }
}

/// What a request has under one header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValue<'a> {
    /// No line.
    #[default]
    Absent,
    /// One line with these bytes.
    One(&'a [u8]),
    /// Two lines or more, which is always malformed.
    Several,
}

impl<'a> FieldValue<'a> {
    /// From the lines of a request with this header name.
    pub fn from_lines(mut lines: impl Iterator<Item = &'a [u8]>) -> Self {
        match (lines.next(), lines.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// Padded, zero pad bits: the only form of an RFC 9651 Byte Sequence that is accepted.
const PADDED: GeneralPurpose = general_purpose::STANDARD;
/// gRPC libraries send binary metadata without padding, and accept both: all of it or none.
const UNPADDED: GeneralPurpose = general_purpose::STANDARD_NO_PAD;

impl Carrier {
    /// The value of a field that carries these bytes.
    pub(crate) fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Http => {
                let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4 + 2);
                text.push(':');
                PADDED.encode_string(bytes, &mut text);
                text.push(':');
                text
            }
            Self::Grpc => UNPADDED.encode(bytes),
        }
    }

    /// The bytes that a field carries, at most `limit`.
    pub(crate) fn read(self, value: &[u8], limit: usize) -> Result<Vec<u8>, Malformed> {
        let (base64, engine) = match self {
            Self::Http => match value {
                [b':', base64 @ .., b':'] => (base64, &PADDED),
                _ => return Err(Malformed("field is not one byte sequence between colons")),
            },
            Self::Grpc if value.ends_with(b"=") => (value, &PADDED),
            Self::Grpc => (value, &UNPADDED),
        };
        if base64.len() > limit.div_ceil(3) * 4 {
            return Err(Malformed("field is too long"));
        }
        let bytes = engine
            .decode(base64)
            .map_err(|_| Malformed("field is not base64 in its only form"))?;
        if bytes.len() > limit {
            return Err(Malformed("field is too long"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_alone_chooses_the_carrier() {
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
        ] {
            assert_eq!(
                Carrier::of_content_type(Some(grpc.as_bytes())),
                Carrier::Grpc,
                "{grpc}"
            );
        }
        for http in [
            "application/grpcweb",
            "application/grpc-web",
            "application/json",
            "",
            " application/grpc",
        ] {
            assert_eq!(
                Carrier::of_content_type(Some(http.as_bytes())),
                Carrier::Http,
                "{http}"
            );
        }
        assert_eq!(Carrier::of_content_type(None), Carrier::Http);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for carrier in [Carrier::Http, Carrier::Grpc] {
            for len in 0..9 {
                let bytes: Vec<u8> = (0..len).map(|i| 240 + i).collect();
                assert_eq!(
                    carrier.read(carrier.write(&bytes).as_bytes(), 100).unwrap(),
                    bytes
                );
            }
        }
    }

    #[test]
    fn case_05_every_other_spelling_is_malformed() {
        assert_eq!(Carrier::Http.read(b":AA==:", 9).unwrap(), [0]);
        for bad in [
            "",
            ":",
            "AA==",
            ":AA:",
            ":AB==:",
            ":AA==",
            "AA==:",
            ":AA== :",
            ": AA==:",
            ":AA==:;a=1",
            ":AA==:,:AA==:",
            ":AA==:,",
            ":AA==AA==:",
            ":A-_=:",
            ":AA=:",
            " :AA==:",
        ] {
            assert!(Carrier::Http.read(bad.as_bytes(), 9).is_err(), "{bad}");
        }
        assert_eq!(Carrier::Grpc.read(b"AA", 9).unwrap(), [0]);
        assert_eq!(Carrier::Grpc.read(b"AA==", 9).unwrap(), [0]);
        for bad in [
            "AB", "AB==", "AA=", "AAA==", "A", "AA,AA", "AA, AA", ":AA==:", "AA AA", "A-_",
            "AA==AA",
        ] {
            assert!(Carrier::Grpc.read(bad.as_bytes(), 9).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_field_over_its_limit_is_malformed() {
        for carrier in [Carrier::Http, Carrier::Grpc] {
            assert!(
                carrier
                    .read(carrier.write(&[7; 6000]).as_bytes(), 6000)
                    .is_ok()
            );
            assert!(
                carrier
                    .read(carrier.write(&[7; 6001]).as_bytes(), 6000)
                    .is_err()
            );
            assert!(
                carrier
                    .read(carrier.write(&[7; 9000]).as_bytes(), 6000)
                    .is_err()
            );
        }
    }

    #[test]
    fn two_lines_are_never_one_value() {
        let lines = |n: usize| FieldValue::from_lines([&b"a"[..], b"b", b"c"].into_iter().take(n));
        assert_eq!(lines(0), FieldValue::Absent);
        assert_eq!(lines(1), FieldValue::One(b"a"));
        assert_eq!(lines(2), FieldValue::Several);
        assert_eq!(lines(3), FieldValue::Several);
    }
}
