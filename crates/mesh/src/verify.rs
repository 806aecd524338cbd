//! Signatures of links, and whose keys made them.
//!
//! `docs/call-chains.md`, section 3 (step 8) and section 4.

mod cache;
mod key;

pub(crate) use key::LinkKey;
