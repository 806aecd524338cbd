//! The chain's two header forms.

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
