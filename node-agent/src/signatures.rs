//! Counts the SVIDs that the server was asked to sign for workloads.

use crate::metrics::{JWT, RENEWALS, SIGNATURES, X509};

/// Which SVIDs were asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signatures {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl Signatures {
    pub(crate) const ALL: [Self; 2] = [Self::X509, Self::Jwt];

    /// Counts `signed` SVIDs, of which `renewed` replace an earlier one.
    pub(crate) fn succeeded(self, signed: usize, renewed: usize) {
        ::metrics::counter!(SIGNATURES.name, "kind" => self.label(), "result" => "ok")
            .increment(whole(signed));
        ::metrics::counter!(RENEWALS.name, "kind" => self.label()).increment(whole(renewed));
    }

    /// Counts SVIDs that were refused, or were asked for in vain.
    pub(crate) fn failed(self, number: usize) {
        ::metrics::counter!(SIGNATURES.name, "kind" => self.label(), "result" => "failed")
            .increment(whole(number));
    }

    const fn label(self) -> &'static str {
        match self {
            Self::X509 => X509,
            Self::Jwt => JWT,
        }
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
