//! Between wire messages and domain types: one module per domain type.
//!
//! Each conversion to a domain type takes the message apart whole, so that a new field can't be overlooked, and refuses
//! the whole object for any bad part. Masks, which keep only the fields asked for, are applied to the wire form.

pub mod agent;
pub mod bundle;
pub mod entry;
pub mod federation;
mod filter;
pub mod id;
pub mod selector;
pub mod svid;
