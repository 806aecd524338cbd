//! Registration entries: which workload gets which SPIFFE ID.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{SelectorSet, SpiffeId, TrustDomain, UnixTime};

/// The longest entry ID, in bytes.
pub const MAX_ENTRY_ID_LEN: usize = 255;
/// The longest hint, in bytes.
pub const MAX_HINT_LEN: usize = 1024;

/// Why a text is not an entry ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEntryId {
    /// Empty.
    #[error("entry ID is empty")]
    Empty,
    /// Longer than [`MAX_ENTRY_ID_LEN`].
    #[error("entry ID is longer than {MAX_ENTRY_ID_LEN} characters")]
    TooLong,
    /// A character other than letters, digits, `.`, `_` and `-`.
    #[error(
        "entry ID contains invalid characters: only letters, numbers, '.', '_' and '-' are allowed"
    )]
    Char,
}

/// The ID of a registration entry: 1 to 255 of `A-Z a-z 0-9 . _ -`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(Arc<str>);

impl EntryId {
    /// Parses an entry ID.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, InvalidEntryId> {
        if text.is_empty() {
            return Err(InvalidEntryId::Empty);
        }
        if text.len() > MAX_ENTRY_ID_LEN {
            return Err(InvalidEntryId::TooLong);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        {
            return Err(InvalidEntryId::Char);
        }
        Ok(Self(text.into()))
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for EntryId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Rarely set attributes of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdditionalAttributes {
    /// Have the X.509-SVID signed only when a workload asks for it.
    pub disable_x509_svid_prefetch: bool,
    /// Give each JWT-SVID a unique `jti`.
    pub jwt_svid_include_jti: bool,
}

/// A registration entry: a workload on the node `parent_id` that has all `selectors` is `spiffe_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique in the trust domain.
    pub id: EntryId,
    /// The workload's ID: of the own trust domain, with a path outside `/spire`.
    pub spiffe_id: SpiffeId,
    /// A node agent, the server (then this is a node alias) or another entry's `spiffe_id`.
    pub parent_id: SpiffeId,
    /// At least one.
    pub selectors: SelectorSet,
    /// Lifetime of X.509-SVIDs in whole seconds; `None` is the server's default.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs in whole seconds; `None` is the server's default.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles the workload gets as well.
    pub federates_with: Vec<TrustDomain>,
    /// The workload may call the server's admin methods.
    pub admin: bool,
    /// The workload is a downstream server and may have a CA certificate signed.
    pub downstream: bool,
    /// The SVID is stored for the workload instead of being served to it.
    pub store_svid: bool,
    /// When the entry is removed; `None` is never.
    pub expires_at: Option<UnixTime>,
    /// DNS names of the X.509-SVID, in order; the first is also its common name.
    pub dns_names: Vec<DnsName>,
    /// 0 at first, incremented with each update.
    pub revision_number: i64,
    /// When the entry was created. Never changes.
    pub created_at: UnixTime,
    /// Tells workloads with several SVIDs what this one is for; at most [`MAX_HINT_LEN`] bytes.
    pub hint: String,
    /// Rarely set.
    pub attributes: AdditionalAttributes,
}

impl Entry {
    /// Whether this is a node alias: an ID for all node agents with these selectors. Its parent is the server.
    #[must_use]
    pub fn is_node_alias(&self) -> bool {
        self.parent_id.is_server()
    }
}

/// Why a text is not a DNS name for an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDnsName {
    /// Empty or blank.
    #[error("empty or only whitespace")]
    Empty,
    /// Longer than 253 bytes, or a label longer than 63.
    #[error("name or label too long")]
    TooLong,
    /// An empty label, such as a trailing dot makes.
    #[error("empty label")]
    EmptyLabel,
    /// A label begins or ends with a hyphen.
    #[error("label begins or ends with a hyphen")]
    Hyphen,
    /// A character other than letters, digits, hyphens and underscores.
    #[error("label has a character other than letters, digits, hyphens and underscores")]
    Char,
    /// A `*` that is not the whole first label, or not followed by a name.
    #[error("wildcard must be the whole first label")]
    Wildcard,
    /// An `xn--` or other reserved label (hyphens in the third and fourth place) that is not valid.
    #[error("reserved label")]
    Reserved,
}

/// A DNS name as X.509-SVIDs carry it: labels of letters, digits, hyphens and underscores, possibly with a leading
/// `*.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsName(Box<str>);

impl DnsName {
    /// Parses a DNS name.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, InvalidDnsName> {
        if text.trim().is_empty() {
            return Err(InvalidDnsName::Empty);
        }
        if text.len() > 253 {
            return Err(InvalidDnsName::TooLong);
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.contains('*') {
            return Err(InvalidDnsName::Wildcard);
        }
        for label in name.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_label(label: &str) -> Result<(), InvalidDnsName> {
    if label.is_empty() {
        return Err(InvalidDnsName::EmptyLabel);
    }
    if label.len() > 63 {
        return Err(InvalidDnsName::TooLong);
    }
    if !label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    {
        return Err(InvalidDnsName::Char);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidDnsName::Hyphen);
    }
    // An A-label (RFC 5890, 2.3.2.1) is passed on as it is; any other label of that form is reserved.
    if label.get(2..4) == Some("--") && (!label.starts_with("xn--") || label.len() < 5) {
        return Err(InvalidDnsName::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_are_bounded_and_plain() {
        assert!(EntryId::new("a-B.c_9").is_ok());
        assert_eq!(EntryId::new(""), Err(InvalidEntryId::Empty));
        assert_eq!(EntryId::new("a/b"), Err(InvalidEntryId::Char));
        assert_eq!(EntryId::new(&"a".repeat(256)), Err(InvalidEntryId::TooLong));
    }

    #[test]
    fn dns_names_are_plain_labels() {
        for good in [
            "a",
            "a.b",
            "*.a.b",
            "xn--bcher-kva.example",
            "1.2",
            "A.b",
            "_tcp.a_b",
        ] {
            assert!(DnsName::new(good).is_ok(), "{good}");
        }
        for (bad, want) in [
            ("", InvalidDnsName::Empty),
            ("  ", InvalidDnsName::Empty),
            ("a.", InvalidDnsName::EmptyLabel),
            (".a", InvalidDnsName::EmptyLabel),
            ("a b", InvalidDnsName::Char),
            ("a/b", InvalidDnsName::Char),
            ("-a", InvalidDnsName::Hyphen),
            ("a-.b", InvalidDnsName::Hyphen),
            ("a.*.b", InvalidDnsName::Wildcard),
            ("*", InvalidDnsName::Wildcard),
            ("*a.b", InvalidDnsName::Wildcard),
            ("ab--c", InvalidDnsName::Reserved),
            ("bücher", InvalidDnsName::Char),
        ] {
            assert_eq!(DnsName::new(bad), Err(want), "{bad}");
        }
        assert_eq!(DnsName::new(&"a".repeat(64)), Err(InvalidDnsName::TooLong));
    }
}
