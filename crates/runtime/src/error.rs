//! Errors of any kind, and how they are printed: once, with their causes.

use std::error::Error;
use std::fmt;

/// An error of any kind that may cross tasks.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error with all its causes on one line: `cannot open the store: locking failed: held by process 7`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(error) = next {
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

#[cfg(test)]
mod tests {
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
}
