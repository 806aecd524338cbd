//! Patterns over SPIFFE IDs: whole segments, literal trust domains.
//!
//! `docs/call-chains.md`, section 7.

use std::fmt;

use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{SpiffeId, TrustDomain};

/// A pattern over SPIFFE IDs: `*` stands for one segment, `**` at the end for one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    tail: Tail,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this one.
    Literal(Box<str>),
    /// Any one.
    Any,
}

/// What may follow the segments of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    End,
    /// One segment or more.
    AnyMore,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPattern(pub(super) String);

impl IdPattern {
    /// Reads a pattern such as `spiffe://ai-agents.org/coder/*`.
    ///
    /// # Errors
    /// What the pattern breaks, in words for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let wrong =
            |what: &str| InvalidPattern(format!("{text:?} is not a pattern of SPIFFE IDs: {what}"));
        if text.is_empty() {
            return Err(wrong(
                "it is empty; to mean all workloads of a trust domain, write spiffe://<trust domain>/**",
            ));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| wrong("it must begin with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| {
            wrong("it has no path; to mean all workloads of the trust domain, add /**")
        })?;
        if domain.contains('*') {
            return Err(wrong("a trust domain is always literal"));
        }
        let trust_domain = TrustDomain::new(domain).map_err(|e| wrong(&e.to_string()))?;
        let (path, tail) = split_tail(path);
        let mut segments = Vec::new();
        // A pattern of nothing but `**` has no segments before it.
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            segments.push(match segment {
                "*" => Segment::Any,
                "**" => return Err(wrong("** stands only at the end")),
                part if part.contains('*') => return Err(wrong("* stands for a whole segment")),
                literal => Segment::Literal(literal.into()),
            });
        }
        let pattern = Self {
            trust_domain,
            segments,
            tail,
        };
        pattern
            .check_literals()
            .map_err(|e| wrong(&e.to_string()))?;
        Ok(pattern)
    }

    /// Whether the pattern names this ID.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if !id.is_member_of(&self.trust_domain) {
            return false;
        }
        let mut segments = id.segments();
        let fits = self
            .segments
            .iter()
            .all(|own| match (own, segments.next()) {
                (Segment::Any, Some(_)) => true,
                (Segment::Literal(literal), Some(segment)) => **literal == *segment,
                (_, None) => false,
            });
        fits && match self.tail {
            Tail::End => segments.next().is_none(),
            Tail::AnyMore => segments.next().is_some(),
        }
    }

    /// The one ID that the pattern names; `None` if it has a wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<SpiffeId> {
        if self.tail == Tail::AnyMore || self.segments.contains(&Segment::Any) {
            return None;
        }
        SpiffeId::parse(&self.to_string()).ok()
    }

    pub(super) fn trust_domain(&self) -> &str {
        self.trust_domain.as_str()
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn tail(&self) -> Tail {
        self.tail
    }

    /// Literal segments have to be such as stand in a canonical ID, or the pattern could never match.
    fn check_literals(&self) -> Result<(), InvalidId> {
        let literals = self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(literal) => Some(literal),
            Segment::Any => None,
        });
        for literal in literals {
            let path = format!("/{literal}");
            self.trust_domain.id_with_path(&path)?;
        }
        Ok(())
    }
}

/// The path before a final `**`, if there is one; `None` for a path that is nothing else.
fn split_tail(path: &str) -> (Option<&str>, Tail) {
    match path.strip_suffix("**") {
        Some("") => (None, Tail::AnyMore),
        Some(before) => match before.strip_suffix('/') {
            Some(before) => (Some(before), Tail::AnyMore),
            None => (Some(path), Tail::End),
        },
        None => (Some(path), Tail::End),
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        match self.tail {
            Tail::End => Ok(()),
            Tail::AnyMore => f.write_str("/**"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        let pattern = IdPattern::parse(pattern).unwrap();
        assert_eq!(IdPattern::parse(&pattern.to_string()), Ok(pattern.clone()));
        pattern.matches(&SpiffeId::parse(id).unwrap())
    }

    #[test]
    fn case_12_patterns_match_whole_segments_of_one_trust_domain() {
        assert!(matches("spiffe://td/pay", "spiffe://td/pay"));
        assert!(!matches("spiffe://td/pay", "spiffe://td/payroll"));
        assert!(!matches("spiffe://td/pay", "spiffe://td/pay/x"));
        assert!(!matches("spiffe://td/pay", "spiffe://other/pay"));
        assert!(!matches("spiffe://td/pay", "spiffe://td.other/pay"));
        assert!(matches("spiffe://td/coder/*", "spiffe://td/coder/1"));
        assert!(!matches("spiffe://td/coder/*", "spiffe://td/coder"));
        assert!(!matches("spiffe://td/coder/*", "spiffe://td/coder/1/2"));
        assert!(matches("spiffe://td/*/1", "spiffe://td/coder/1"));
        assert!(matches("spiffe://td/a/**", "spiffe://td/a/b/c"));
        assert!(!matches("spiffe://td/a/**", "spiffe://td/a"));
        assert!(!matches("spiffe://td/a/**", "spiffe://td/ab"));
        assert!(matches("spiffe://td/**", "spiffe://td/a"));
        assert!(!matches("spiffe://td/**", "spiffe://td"));
        assert!(matches("spiffe://td/*/**", "spiffe://td/a/b"));
        assert!(!matches("spiffe://td/*/**", "spiffe://td/a"));
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for bad in [
            "",
            "*",
            "**",
            "td/a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://*/a",
            "spiffe://**",
            "spiffe://TD/a",
            "spiffe://td/a*",
            "spiffe://td/**/a",
            "spiffe://td/a**",
            "spiffe://td//**",
            "spiffe://td/a/",
            "spiffe://td/./a",
            "spiffe://td/a b",
            "spiffe://td/***",
            "spiffe://td/%61",
        ] {
            assert!(IdPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_pattern_without_wildcards_names_one_id() {
        let exact = |text| IdPattern::parse(text).unwrap().exact();
        assert_eq!(
            exact("spiffe://td/a/b").unwrap().as_str(),
            "spiffe://td/a/b"
        );
        assert_eq!(exact("spiffe://td/a/*"), None);
        assert_eq!(exact("spiffe://td/a/**"), None);
    }
}
