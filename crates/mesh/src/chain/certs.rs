//! The certificates that travel with a chain.

/// The certificates of the earlier signers of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CertSet {}
