//! Join tokens: each can be exchanged for one node's identity, so they are never printed.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::proof::{NoProof, NodeAttestor, Proof, read};

const TYPE: &str = "join_token";
/// The longest token, in bytes: it becomes part of the node's SPIFFE ID.
pub(crate) const MAX_TOKEN_LEN: usize = 1024;

/// A text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: a token is 1 to {MAX_TOKEN_LEN} letters, digits, '.', '-' and '_'; `countersign-server token generate` prints one"
)]
pub(crate) struct InvalidToken;

/// A join token. Prints as its length.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// Takes a token; white space around it does not count, as files end with a newline.
    ///
    /// # Errors
    /// It could not become the last segment of a node's SPIFFE ID.
    pub(crate) fn new(text: &str) -> Result<Self, InvalidToken> {
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

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the join token is.
#[derive(Clone, Debug)]
pub(crate) enum JoinTokenSource {
    /// Here.
    Given(JoinToken),
    /// In this file; read only when it is needed.
    File(PathBuf),
}

/// Attests with a join token: good once, so needed for the first start only.
#[derive(Clone, Debug, Default)]
pub(crate) struct JoinTokenAttestor {
    /// Where it is, if one was given.
    pub(crate) source: Option<JoinTokenSource>,
}

impl NodeAttestor for JoinTokenAttestor {
    fn kind(&self) -> &'static str {
        TYPE
    }

    fn prove(&self) -> Result<Box<dyn Proof>, NoProof> {
        let token = match &self.source {
            None => return Err(NoProof::NoToken),
            Some(JoinTokenSource::Given(token)) => token.clone(),
            Some(JoinTokenSource::File(path)) => {
                let fail = |reason: String| NoProof::File {
                    path: path.clone(),
                    reason,
                };
                let bytes = read(path)?;
                let text = std::str::from_utf8(&bytes).map_err(|e| fail(e.to_string()))?;
                JoinToken::new(text).map_err(|e| fail(e.to_string()))?
            }
        };
        Ok(Box::new(token))
    }
}

/// The token is all the proof there is.
impl Proof for JoinToken {
    fn payload(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_str().as_bytes())
    }

    fn answer(&self, _: &[u8]) -> Result<Bytes, NoProof> {
        Err(NoProof::Challenge(
            "a join token is all the proof there is".to_owned(),
        ))
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
