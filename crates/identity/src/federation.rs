//! Federation relationships: the endpoint of a foreign trust domain's bundle, and how that authenticates itself.

use std::fmt;

use crate::{SpiffeId, TrustDomain};

/// The longest URL of a bundle endpoint, in bytes.
pub const MAX_URL_LEN: usize = 2_048;

const HTTPS: &str = "https://";
const HTTPS_PORT: u16 = 443;

/// Why a text is not the URL of a bundle endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// Longer than [`MAX_URL_LEN`].
    #[error("bundle endpoint URL is longer than {MAX_URL_LEN} bytes")]
    TooLong,
    /// Spaces, control characters or characters outside ASCII.
    #[error("failed to parse bundle endpoint URL: invalid character")]
    Character,
    /// Not `https`.
    #[error("bundle endpoint URL must use the https scheme")]
    Scheme,
    /// No host.
    #[error("bundle endpoint URL must specify the host")]
    Host,
    /// A user's name or password.
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    /// Not a number from 1 to 65535.
    #[error("failed to parse bundle endpoint URL: invalid port")]
    Port,
}

/// The URL of a bundle endpoint: `https`, with a host and without user information. It prints as it was written.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    text: String,
    /// Where the host ends, port included.
    authority_end: usize,
    host_end: usize,
    port: u16,
}

impl EndpointUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > MAX_URL_LEN {
            return Err(InvalidUrl::TooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidUrl::Character);
        }
        let rest = match text.split_at_checked(HTTPS.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(HTTPS) => rest,
            _ => return Err(InvalidUrl::Scheme),
        };
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(InvalidUrl::UserInfo);
        }
        let (host, port) = host_and_port(authority)?;
        Ok(Self {
            authority_end: HTTPS.len() + authority.len(),
            host_end: HTTPS.len() + host.len(),
            port,
            text: text.to_owned(),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host's name or address; an IPv6 address stands in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text
            .get(HTTPS.len()..self.host_end)
            .unwrap_or_default()
    }

    /// The port, 443 if none is written.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as they are written, for the request's `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text
            .get(HTTPS.len()..self.authority_end)
            .unwrap_or_default()
    }

    /// The request target: path and query, without fragment.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        let rest = self.text.get(self.authority_end..).unwrap_or_default();
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        }
    }

    /// Where a redirect from here leads (RFC 9110, section 10.2.2): a whole URL, or a path on the same host.
    ///
    /// # Errors
    /// The target is not the URL of a bundle endpoint.
    pub fn redirected(&self, location: &str) -> Result<Self, InvalidUrl> {
        let target = match location {
            network if network.starts_with("//") => format!("https:{network}"),
            path if path.starts_with('/') => format!("{HTTPS}{}{path}", self.authority()),
            whole => whole.to_owned(),
        };
        Self::parse(&target)
    }
}

fn host_and_port(authority: &str) -> Result<(&str, u16), InvalidUrl> {
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    if host.is_empty() || (host.contains(['[', ']']) && !bracketed) {
        return Err(InvalidUrl::Host);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, HTTPS_PORT)),
        Some("") => Ok((host, HTTPS_PORT)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(0) | Err(_) => Err(InvalidUrl::Port),
            Ok(port) => Ok((host, port)),
        },
        _ => Err(InvalidUrl::Port),
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// How an endpoint authenticates itself (SPIFFE Federation, section 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointProfile {
    /// `https_web`: by a certificate of the web's PKI for its host.
    Web,
    /// `https_spiffe`: by an X.509-SVID with exactly this ID.
    Spiffe(SpiffeId),
}

impl EndpointProfile {
    /// The name that SPIRE's configuration uses.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Web => "https_web",
            Self::Spiffe(_) => "https_spiffe",
        }
    }
}

/// A relationship with a foreign trust domain: where its bundle comes from. The bundle itself is stored separately.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Relationship {
    /// The trust domain of the bundle. The document does not name it, so only the configuration decides.
    pub trust_domain: TrustDomain,
    /// Where the bundle is.
    pub url: EndpointUrl,
    /// How the endpoint must authenticate itself.
    pub profile: EndpointProfile,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts() {
        for (text, host, port, authority, path) in [
            ("https://a.test", "a.test", 443, "a.test", "/"),
            (
                "HTTPS://a.test:8443/x/y?z#f",
                "a.test",
                8443,
                "a.test:8443",
                "/x/y?z",
            ),
            ("https://[::1]:9/", "[::1]", 9, "[::1]:9", "/"),
            ("https://[::1]?q", "[::1]", 443, "[::1]", "/?q"),
            ("https://a.test:/b", "a.test", 443, "a.test:", "/b"),
        ] {
            let url = EndpointUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
            assert_eq!(
                (url.authority(), url.path_and_query().as_str()),
                (authority, path)
            );
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for (text, why) in [
            ("", InvalidUrl::Scheme),
            ("http://a.test", InvalidUrl::Scheme),
            ("https:a.test", InvalidUrl::Scheme),
            ("https://", InvalidUrl::Host),
            ("https:///path", InvalidUrl::Host),
            ("https://:8443", InvalidUrl::Host),
            ("https://[]:1", InvalidUrl::Host),
            ("https://x[::1]", InvalidUrl::Host),
            ("https://user@a.test", InvalidUrl::UserInfo),
            ("https://u:p@a.test", InvalidUrl::UserInfo),
            ("https://a.test:0", InvalidUrl::Port),
            ("https://a.test:65536", InvalidUrl::Port),
            ("https://a.test:1:2", InvalidUrl::Port),
            ("https://::1", InvalidUrl::Host),
            ("https://a.test/ b", InvalidUrl::Character),
            ("https://ä.test", InvalidUrl::Character),
            ("https://a.test/\r\nHost: b", InvalidUrl::Character),
        ] {
            assert_eq!(EndpointUrl::parse(text), Err(why), "{text}");
        }
        let long = format!("https://{}", "a".repeat(MAX_URL_LEN));
        assert_eq!(EndpointUrl::parse(&long), Err(InvalidUrl::TooLong));
    }

    #[test]
    fn redirects_stay_with_https() {
        let url = EndpointUrl::parse("https://a.test:1/x").unwrap();
        for (location, target) in [
            ("/y?z", "https://a.test:1/y?z"),
            ("//b.test/y", "https://b.test/y"),
            ("https://b.test", "https://b.test"),
        ] {
            assert_eq!(url.redirected(location).unwrap().as_str(), target);
        }
        assert_eq!(url.redirected("http://a.test/"), Err(InvalidUrl::Scheme));
        assert_eq!(url.redirected("//u@b.test/"), Err(InvalidUrl::UserInfo));
    }
}
