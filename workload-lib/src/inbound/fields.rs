//! What the layer takes off a request before anyone else sees it.

use countersign_mesh::Carrier;
use countersign_mesh::chain::FieldValue;
use countersign_mesh::chain::field::{CERTS_HEADER, CERTS_METADATA, CHAIN_HEADER, CHAIN_METADATA};
use countersign_mesh::decide::FieldValues;
use http::header::{CONTENT_TYPE, Entry, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request};

/// The lines of one header: the first two tell all that matters.
#[derive(Default)]
struct Lines(Vec<HeaderValue>);

impl Lines {
    fn take(headers: &mut HeaderMap, name: &'static str) -> Self {
        match headers.entry(name) {
            Entry::Occupied(entry) => Self(entry.remove_entry_mult().1.take(2).collect()),
            Entry::Vacant(_) => Self::default(),
        }
    }

    fn value(&self) -> FieldValue<'_> {
        FieldValue::from_lines(self.0.iter().map(HeaderValue::as_bytes))
    }
}

/// The chain fields of a request, both carriers'.
pub(super) struct ChainFields {
    chain: Lines,
    certs: Lines,
    chain_bin: Lines,
    certs_bin: Lines,
}

impl ChainFields {
    /// Takes them off.
    pub(super) fn take(headers: &mut HeaderMap) -> Self {
        Self {
            chain: Lines::take(headers, CHAIN_HEADER),
            certs: Lines::take(headers, CERTS_HEADER),
            chain_bin: Lines::take(headers, CHAIN_METADATA),
            certs_bin: Lines::take(headers, CERTS_METADATA),
        }
    }

    pub(super) fn view(&self) -> FieldValues<'_> {
        FieldValues {
            chain: self.chain.value(),
            certs: self.certs.value(),
            chain_bin: self.chain_bin.value(),
            certs_bin: self.certs_bin.value(),
        }
    }
}

/// What the content type makes of the request.
pub(super) fn carrier(headers: &HeaderMap) -> Carrier {
    Carrier::of_content_type(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes))
}

/// The path that policy is asked about; empty, which no policy allows, for what would leave HTTP: CONNECT and upgrades.
pub(super) fn path<B>(request: &Request<B>) -> &str {
    if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        return "";
    }
    request.uri().path()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_fields_are_taken_off_whole() {
        let mut headers = HeaderMap::new();
        for value in ["a", "b", "c"] {
            headers.append(CHAIN_HEADER, HeaderValue::from_static(value));
        }
        headers.append(CERTS_METADATA, HeaderValue::from_static("d"));
        let fields = ChainFields::take(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(fields.view().chain, FieldValue::Several);
        assert_eq!(fields.view().certs_bin, FieldValue::One(b"d"));
        assert_eq!(fields.view().certs, FieldValue::Absent);
    }
}
