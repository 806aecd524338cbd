//! Errors of any kind, and how they are printed: once, with their causes.

use std::error::Error;
use std::fmt;
use std::io;

use countersign_identity::tls;

/// An error of any kind that may cross tasks.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error with all its causes on one line: `cannot open the store: locking failed: held by process 7`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = speaker(self.0);
        let mut last = first.to_string();
        f.write_str(&last)?;
        let mut next = first.source();
        while let Some(error) = next {
            let error = speaker(error);
            let text = error.to_string();
            // Some libraries repeat their source in their own message.
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            next = error.source();
        }
        Ok(())
    }
}

/// The error to print. rustls does not list our verifier's error among its sources, and prints it only as `Debug`.
fn speaker<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    let refused = wrapped
        .or_else(|| error.downcast_ref())
        .and_then(tls::peer_error);
    refused.map_or(error, |refused| refused)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_identity::verify::PeerError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn each_cause_is_printed_once() {
        let error = Said(
            "a",
            Some(Box::new(Said(
                "b: c",
                Some(Box::new(Said("c", Some(Box::new(Said("d", None)))))),
            ))),
        );
        assert_eq!(Chain(&error).to_string(), "a: b: c: d");
    }

    #[test]
    fn what_our_verifier_says_is_printed_in_its_own_words() {
        let refused = || {
            let other = rustls::OtherError(Arc::new(PeerError::NoCertificate));
            rustls::Error::from(rustls::CertificateError::Other(other))
        };
        let words = PeerError::NoCertificate.to_string();
        assert_eq!(Chain(&refused()).to_string(), words);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, refused());
        assert_eq!(Chain(&wrapped).to_string(), words);
    }
}
