//! Join tokens: worth one node's identity, so never printed.

use std::fmt;

use zeroize::Zeroizing;

/// The attestor's name on the wire.
pub(super) const TYPE: &str = "join_token";
/// The longest token, in bytes: it becomes part of the node's SPIFFE ID.
pub const MAX_TOKEN_LEN: usize = 1024;

/// A text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: a token is 1 to {MAX_TOKEN_LEN} letters, digits, '.', '-' and '_'; `countersign-server token generate` prints one"
)]
pub struct InvalidToken;

/// A join token. Prints as its length.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// Takes a token; white space around it does not count, as files end with a newline.
    ///
    /// # Errors
    /// It could not become the last segment of a node's SPIFFE ID.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty()
            || text.len() > MAX_TOKEN_LEN
            || text == "."
            || text == ".."
            || !text.bytes().all(allowed)
        {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(<{} bytes>)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_path_segment() {
        assert_eq!(JoinToken::new(" abc-1\n").unwrap().as_str(), "abc-1");
        for bad in [
            "",
            " ",
            ".",
            "..",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(MAX_TOKEN_LEN + 1),
        ] {
            assert_eq!(JoinToken::new(bad), Err(InvalidToken), "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(
            format!("{:?}", JoinToken::new("secret").unwrap()),
            "JoinToken(<6 bytes>)"
        );
    }
}
