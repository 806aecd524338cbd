//! SPIFFE IDs and trust domains, canonical by construction.
//!
//! SPIFFE-ID standard, sections 2.1 to 2.3. Nothing is normalised: an identifier that is not already canonical (an
//! upper-case trust domain, a percent-encoded path, a trailing slash) is refused, so that two identifiers are the same
//! exactly if their bytes are.

use std::fmt;
use std::sync::Arc;

/// The longest SPIFFE ID, in bytes (SPIFFE-ID 2.3).
pub const MAX_ID_LEN: usize = 2048;
/// The longest trust domain name, in bytes (SPIFFE-ID 2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or a trust domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Longer than [`MAX_ID_LEN`].
    #[error("longer than {MAX_ID_LEN} bytes")]
    TooLong,
    /// Does not begin with `spiffe://`, in lower case.
    #[error("scheme is missing or invalid: must begin with \"spiffe://\"")]
    Scheme,
    /// The trust domain is empty.
    #[error("trust domain is missing")]
    TrustDomainMissing,
    /// The trust domain is longer than [`MAX_TRUST_DOMAIN_LEN`].
    #[error("trust domain is longer than {MAX_TRUST_DOMAIN_LEN} bytes")]
    TrustDomainTooLong,
    /// The trust domain has a character other than lower-case letters, digits, `.`, `-` and `_`.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomainChar,
    /// The path is not empty and does not begin with `/`.
    #[error("path must have a leading slash")]
    PathLeadingSlash,
    /// The path has an empty segment.
    #[error("path cannot contain empty segments")]
    PathEmptySegment,
    /// The path ends with `/`.
    #[error("path cannot have a trailing slash")]
    PathTrailingSlash,
    /// The path has a `.` or `..` segment.
    #[error("path cannot contain dot segments")]
    PathDotSegment,
    /// The path has a character other than letters, digits, `.`, `-` and `_`.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    PathChar,
}

/// The name of a trust domain, such as `ai-agents.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name.
    ///
    /// # Errors
    /// The first rule of SPIFFE-ID 2.1 that the name breaks.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// Parses a bare name, or takes the trust domain of a whole SPIFFE ID, as SPIRE does wherever a name is asked for.
    ///
    /// # Errors
    /// The first rule that the name or the ID breaks.
    pub fn from_name_or_id(text: &str) -> Result<Self, InvalidId> {
        if text.contains(":/") {
            SpiffeId::parse(text).map(|id| id.trust_domain())
        } else {
            Self::new(text)
        }
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID, `spiffe://<name>`, which certificate authorities carry.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}", self.0).into(),
            domain_len: self.0.len(),
        }
    }

    /// The ID with this path.
    ///
    /// # Errors
    /// The rule that the path breaks; [`InvalidId::TooLong`] if the whole would exceed [`MAX_ID_LEN`].
    pub fn id_with_path(&self, path: &str) -> Result<SpiffeId, InvalidId> {
        check_path(path)?;
        let text = format!("{SCHEME}{}{path}", self.0);
        if text.len() > MAX_ID_LEN {
            return Err(InvalidId::TooLong);
        }
        Ok(SpiffeId {
            text: text.into(),
            domain_len: self.0.len(),
        })
    }

    /// The ID of this trust domain's servers, `spiffe://<name>/spire/server`.
    #[must_use]
    pub fn server_id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}/spire/server", self.0).into(),
            domain_len: self.0.len(),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::str::FromStr for TrustDomain {
    type Err = InvalidId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

/// A SPIFFE ID: `spiffe://<trust domain><path>`, the path possibly empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_len: usize,
}

impl SpiffeId {
    /// Parses a canonical SPIFFE ID.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if text.len() > MAX_ID_LEN {
            return Err(InvalidId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidId::Scheme)?;
        let domain_len = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at(domain_len);
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self {
            text: text.into(),
            domain_len,
        })
    }

    /// The whole ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain. Allocates; to compare, use [`SpiffeId::trust_domain_name`] or [`SpiffeId::is_member_of`].
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().into())
    }

    /// The trust domain's bare name.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        self.text
            .get(SCHEME.len()..SCHEME.len() + self.domain_len)
            .unwrap_or_default()
    }

    /// The path: empty, or beginning with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text
            .get(SCHEME.len() + self.domain_len..)
            .unwrap_or_default()
    }

    /// The path's segments, none of them empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Whether this ID belongs to the trust domain, with or without a path.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// Whether the path is reserved for SPIRE itself: `/spire` and everything under it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some("spire")
    }

    /// Whether this is a workload's ID: it has a path, and that is not reserved.
    #[must_use]
    pub fn is_workload(&self) -> bool {
        !self.path().is_empty() && !self.is_reserved()
    }

    /// Whether this is a node agent's ID: under `/spire/agent/`.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        let mut segments = self.segments();
        segments.next() == Some("spire")
            && segments.next() == Some("agent")
            && segments.next().is_some()
    }

    /// Whether this is the ID of its trust domain's servers.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.path() == "/spire/server"
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = InvalidId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

fn check_trust_domain(name: &str) -> Result<(), InvalidId> {
    if name.is_empty() {
        return Err(InvalidId::TrustDomainMissing);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(InvalidId::TrustDomainTooLong);
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || is_digit_or_mark(b))
    {
        return Err(InvalidId::TrustDomainChar);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), InvalidId> {
    if path.is_empty() {
        return Ok(());
    }
    let rest = path.strip_prefix('/').ok_or(InvalidId::PathLeadingSlash)?;
    if path.ends_with('/') {
        return Err(InvalidId::PathTrailingSlash);
    }
    for segment in rest.split('/') {
        match segment {
            "" => return Err(InvalidId::PathEmptySegment),
            "." | ".." => return Err(InvalidId::PathDotSegment),
            _ if segment
                .bytes()
                .all(|b| b.is_ascii_alphabetic() || is_digit_or_mark(b)) => {}
            _ => return Err(InvalidId::PathChar),
        }
    }
    Ok(())
}

const fn is_digit_or_mark(b: u8) -> bool {
    b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_id_is_taken_apart() {
        let id = SpiffeId::parse("spiffe://ai-agents.org/coder/1").unwrap();
        assert_eq!(
            id.trust_domain(),
            TrustDomain::new("ai-agents.org").unwrap()
        );
        assert_eq!(id.path(), "/coder/1");
        assert_eq!(id.segments().collect::<Vec<_>>(), ["coder", "1"]);
        assert!(id.is_workload() && !id.is_agent() && !id.is_reserved());
    }

    #[test]
    fn reserved_paths_are_told_by_segment_not_by_prefix() {
        let td = TrustDomain::new("td").unwrap();
        let id = |path| td.id_with_path(path).unwrap();
        assert!(id("/spire").is_reserved() && id("/spire/agent/x").is_reserved());
        assert!(!id("/spirex").is_reserved() && id("/spirex").is_workload());
        assert!(id("/spire/agent/join_token/t").is_agent() && !id("/spire/agent").is_agent());
        assert!(td.server_id().is_server());
        assert!(!td.id().is_workload() && td.id().segments().next().is_none());
    }

    #[test]
    fn each_rule_has_its_own_refusal() {
        let long = format!("spiffe://td/{}", "a".repeat(MAX_ID_LEN));
        for (text, want) in [
            ("SPIFFE://td/a", InvalidId::Scheme),
            ("http://td/a", InvalidId::Scheme),
            ("", InvalidId::Scheme),
            ("spiffe://", InvalidId::TrustDomainMissing),
            ("spiffe:///a", InvalidId::TrustDomainMissing),
            ("spiffe://Td/a", InvalidId::TrustDomainChar),
            ("spiffe://user@td/a", InvalidId::TrustDomainChar),
            ("spiffe://td:80/a", InvalidId::TrustDomainChar),
            ("spiffe://td?q", InvalidId::TrustDomainChar),
            ("spiffe://td/", InvalidId::PathTrailingSlash),
            ("spiffe://td/a/", InvalidId::PathTrailingSlash),
            ("spiffe://td/a//b", InvalidId::PathEmptySegment),
            ("spiffe://td/./b", InvalidId::PathDotSegment),
            ("spiffe://td/a/..", InvalidId::PathDotSegment),
            ("spiffe://td/a%20b", InvalidId::PathChar),
            ("spiffe://td/a?b", InvalidId::PathChar),
            ("spiffe://td/ä", InvalidId::PathChar),
            (&long, InvalidId::TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(want), "{text}");
        }
        assert_eq!(
            TrustDomain::new(&"a".repeat(256)),
            Err(InvalidId::TrustDomainTooLong)
        );
        assert_eq!(
            TrustDomain::new("td").unwrap().id_with_path("a"),
            Err(InvalidId::PathLeadingSlash)
        );
    }

    #[test]
    fn a_trust_domain_is_taken_from_a_name_or_an_id() {
        let td = TrustDomain::new("td").unwrap();
        assert_eq!(TrustDomain::from_name_or_id("td"), Ok(td.clone()));
        assert_eq!(TrustDomain::from_name_or_id("spiffe://td"), Ok(td.clone()));
        assert_eq!(TrustDomain::from_name_or_id("spiffe://td/path"), Ok(td));
        assert_eq!(
            TrustDomain::from_name_or_id("https://td"),
            Err(InvalidId::Scheme)
        );
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "spiffe://[a-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,8}){0,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                assert_eq!(id.to_string(), text);
                assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
            }
        }
    }
}
