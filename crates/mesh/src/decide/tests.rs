//! The cases of `docs/call-chains.md`, section 10, as far as they live in this crate. Each test names its case.

mod call_path;
mod claim;
mod count;
mod form;
mod identity;
