//! Actions: the method and path of a request, and patterns over them.
//!
//! `docs/call-chains.md`, section 7.

use crate::chain::codec::MAX_ACTION_LEN;

use super::pattern::{InvalidPattern, Segment, Tail};

/// Method and path of a request, the path in its one canonical spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action<'a> {
    method: &'a str,
    path: &'a str,
}

/// Why a request has no action that a policy could allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAction(&'static str);

impl<'a> Action<'a> {
    /// The action of a request; the path as it was sent, without the query.
    ///
    /// # Errors
    /// A target without a path, or a path that could be spelled in another call_path.
    pub fn new(method: &'a str, path: &'a str) -> Result<Self, InvalidAction> {
        check_path(path)?;
        if !is_method(method) {
            return Err(InvalidAction("the method is not a token"));
        }
        if method.len() + 1 + path.len() > MAX_ACTION_LEN {
            return Err(InvalidAction("method and path are longer than 1,024 bytes"));
        }
        Ok(Self { method, path })
    }

    /// Whether this is what a link's `action` claim says, byte for byte.
    #[must_use]
    pub fn is(&self, claim: &str) -> bool {
        claim
            .strip_prefix(self.method)
            .and_then(|rest| rest.strip_prefix(' '))
            == Some(self.path)
    }

    /// As the `action` claim says it.
    #[must_use]
    pub fn to_claim(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn segments(&self) -> impl Iterator<Item = &'a str> {
        self.path.split('/').skip(1)
    }
}

fn is_method(method: &str) -> bool {
    // RFC 9110, 5.6.2: a token.
    let is_mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !method.is_empty()
        && method
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || is_mark(b))
}

fn check_path(path: &str) -> Result<(), InvalidAction> {
    let rest = path
        .strip_prefix('/')
        .ok_or(InvalidAction("the request target has no path"))?;
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidAction(
            "the path has a byte that is not visible ASCII",
        ));
    }
    // RFC 3986 has none, and much software takes it for a slash.
    if path.contains('\\') {
        return Err(InvalidAction("the path has a backslash"));
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => {
                return Err(InvalidAction("the path has an empty segment"));
            }
            "." | ".." => return Err(InvalidAction("the path has a dot segment")),
            _ => check_escapes(segment)?,
        }
    }
    Ok(())
}

/// Every `%` has to begin an upper-case triplet that stands for something that cannot stand there plainly.
fn check_escapes(segment: &str) -> Result<(), InvalidAction> {
    let mut parts = segment.split('%');
    parts.next();
    for part in parts {
        let [high, low, ..] = part.as_bytes() else {
            return Err(InvalidAction("the path has a % without two digits"));
        };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else {
            return Err(InvalidAction(
                "the path has a % without two upper-case hex digits",
            ));
        };
        let byte = high << 4 | low;
        let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_unreserved || matches!(byte, b'/' | b'\\') || byte.is_ascii_control() {
            return Err(InvalidAction(
                "the path encodes a letter, digit, mark, slash, backslash or control",
            ));
        }
    }
    Ok(())
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A pattern over actions: `GET /tasks/*`, or `/tasks.v1.Tasks/*` for `POST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionPattern {
    method: Box<str>,
    segments: Vec<Segment>,
    tail: Tail,
    /// The `:verb` after a final `*`, with its colon.
    verb: Option<Box<str>>,
}

impl ActionPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What the pattern breaks, in words for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let wrong =
            |what: &str| InvalidPattern(format!("{text:?} is not a pattern of actions: {what}"));
        let (method, path) = match text.split_once(' ') {
            _ if text.is_empty() => {
                return Err(wrong("it is empty; write a method, one space and a path"));
            }
            _ if text.starts_with('/') => ("POST", text),
            Some(parts) => parts,
            None => {
                return Err(wrong(
                    "write a method, one space and a path, or for POST the path alone",
                ));
            }
        };
        if method.contains('*')
            || !is_method(method)
            || method.bytes().any(|b| b.is_ascii_lowercase())
        {
            return Err(wrong("a method is literal and in upper case"));
        }
        let rest = path
            .strip_prefix('/')
            .ok_or_else(|| wrong("the path must begin with /"))?;
        let mut pattern = Self {
            method: method.into(),
            segments: Vec::new(),
            tail: Tail::End,
            verb: None,
        };
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            pattern.push(part, parts.peek().is_none()).map_err(wrong)?;
        }
        pattern
            .check_literals()
            .map_err(|e| wrong(&e.to_string()))?;
        Ok(pattern)
    }

    fn push(&mut self, part: &str, is_last: bool) -> Result<(), &'static str> {
        match part {
            "*" => self.segments.push(Segment::Any),
            "**" if is_last => self.tail = Tail::AnyMore,
            "**" => return Err("** stands only at the end"),
            _ => match part.strip_prefix('*') {
                Some(verb)
                    if is_last
                        && verb.starts_with(':')
                        && verb.len() > 1
                        && !verb.contains('*') =>
                {
                    self.segments.push(Segment::Any);
                    self.verb = Some(verb.into());
                }
                _ if part.contains('*') => {
                    return Err("* stands for a whole segment; only the last may be *:verb");
                }
                _ => self.segments.push(Segment::Literal(part.into())),
            },
        }
        Ok(())
    }

    /// Literal parts have to be such as stand in a canonical path, or the pattern could never match.
    fn check_literals(&self) -> Result<(), InvalidAction> {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Any => "x",
            });
        }
        path.push_str(self.verb.as_deref().unwrap_or_default());
        if self.tail == Tail::AnyMore {
            path.push_str("/x");
        }
        Action::new(&self.method, &path).map(|_| ())
    }

    /// Whether the pattern names this action. A wildcard never stands for the empty segment after a final slash.
    #[must_use]
    pub fn matches(&self, action: &Action<'_>) -> bool {
        if *self.method != *action.method {
            return false;
        }
        let mut segments = action.segments();
        let last = self.segments.len().wrapping_sub(1);
        let fits = self
            .segments
            .iter()
            .enumerate()
            .all(|(i, own)| match (own, segments.next()) {
                (Segment::Literal(literal), Some(segment)) => **literal == *segment,
                (Segment::Any, Some(segment)) => {
                    let verb = self
                        .verb
                        .as_deref()
                        .filter(|_| i == last)
                        .unwrap_or_default();
                    segment
                        .strip_suffix(verb)
                        .is_some_and(|rest| !rest.is_empty())
                }
                (_, None) => false,
            });
        fits && match self.tail {
            Tail::End => segments.next().is_none(),
            Tail::AnyMore => segments.next().is_some_and(|segment| !segment.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, method: &str, path: &str) -> bool {
        ActionPattern::parse(pattern)
            .unwrap()
            .matches(&Action::new(method, path).unwrap())
    }

    #[test]
    fn patterns_match_whole_segments_and_the_method() {
        assert!(matches("POST /tasks", "POST", "/tasks"));
        assert!(!matches("POST /tasks", "GET", "/tasks"));
        assert!(!matches("POST /tasks", "POST", "/tasks/"));
        assert!(!matches("POST /tasks", "POST", "/tasksmith"));
        assert!(matches(
            "/tasks.v1.Tasks/*",
            "POST",
            "/tasks.v1.Tasks/Create"
        ));
        assert!(!matches(
            "/tasks.v1.Tasks/*",
            "POST",
            "/tasks.v1.TasksAdmin/Create"
        ));
        assert!(matches("GET /tasks/*", "GET", "/tasks/7"));
        assert!(!matches("GET /tasks/*", "GET", "/tasks/"));
        assert!(!matches("GET /tasks/*", "GET", "/tasks/7/x"));
        assert!(matches("GET /tasks/**", "GET", "/tasks/7/x"));
        assert!(matches("GET /tasks/**", "GET", "/tasks/7/"));
        assert!(!matches("GET /tasks/**", "GET", "/tasks/"));
        assert!(matches("GET /", "GET", "/"));
        assert!(!matches("GET /**", "GET", "/"));
        assert!(matches("GET /tasks/", "GET", "/tasks/"));
        assert!(matches("POST /tasks/*:cancel", "POST", "/tasks/7:cancel"));
        assert!(!matches("POST /tasks/*:cancel", "POST", "/tasks/:cancel"));
        assert!(!matches(
            "POST /tasks/*:cancel",
            "POST",
            "/tasks/7:canceled"
        ));
        assert!(!matches("POST /*/x", "POST", "/a:b/y"));
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for bad in [
            "",
            "POST",
            "POST tasks",
            " /tasks",
            "POST  /tasks",
            "post /tasks",
            "* /tasks",
            "P*ST /a",
            "POST /a*",
            "POST /**/a",
            "POST /a//b",
            "POST /a/../b",
            "POST /%2e",
            "POST /a b",
            "POST /*:a/b",
            "POST /*:",
            "POST /*x",
            "POST /a?b=*",
            "POST /*:v*",
        ] {
            assert!(ActionPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn case_12_a_path_has_one_spelling() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/a%20b",
            "/a%C3%A4",
            "/a.b",
            "/...",
            "/a;b=c",
            "/pkg.Service/Method",
            "/%3A",
        ] {
            assert!(Action::new("GET", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "host:443",
            "a",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "//",
            "//a",
            "/a//b",
            "/%2e",
            "/%2E",
            "/%2f",
            "/%2F",
            "/%5C",
            "/%5c",
            "/%61",
            "/%7E",
            "/%0A",
            "/%7F",
            "/%",
            "/%2",
            "/%zz",
            "/%c3%a4",
            "/ä",
            "/a b",
            "/\u{7f}",
            "/a\\..\\b",
        ] {
            assert!(Action::new("GET", bad).is_err(), "{bad}");
        }
        assert!(Action::new("", "/a").is_err());
        assert!(Action::new("G T", "/a").is_err());
        assert!(Action::new("GET", &format!("/{}", "a".repeat(1019))).is_ok());
        assert!(Action::new("GET", &format!("/{}", "a".repeat(1020))).is_err());
    }

    #[test]
    fn a_claim_is_compared_byte_for_byte() {
        let action = Action::new("POST", "/tasks").unwrap();
        assert!(action.is("POST /tasks") && action.is(&action.to_claim()));
        for other in [
            "POST /tasks/",
            "POST  /tasks",
            "post /tasks",
            "POST /task",
            "/tasks",
            "POST/tasks",
        ] {
            assert!(!action.is(other), "{other}");
        }
    }
}
