//! What a signature is for, as metrics tell it apart.

use crate::metrics::SIGNATURES;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The SVID of a node agent.
    Agent,
    /// An X.509-SVID of a workload.
    X509,
    /// A JWT-SVID of a workload.
    Jwt,
    /// The authority of a downstream server.
    Downstream,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Agent, Self::X509, Self::Jwt, Self::Downstream];

    const fn label(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Downstream => "downstream",
        }
    }

    /// Adds to the counter of signatures. Zeros make the series appear, so that its first increase is seen as one.
    pub fn count(self, signed: usize, failed: usize) {
        for (result, number) in [("ok", signed), ("failed", failed)] {
            let number = u64::try_from(number).unwrap_or(u64::MAX);
            ::metrics::counter!(SIGNATURES, "kind" => self.label(), "result" => result)
                .increment(number);
        }
    }

    /// Counts one result, and hands it on.
    pub(super) fn counted<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        let signed = usize::from(result.is_ok());
        self.count(signed, 1 - signed);
        result
    }
}
