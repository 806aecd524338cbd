//! Signatures of links.
