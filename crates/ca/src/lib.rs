//! The server's certificate authority: its keys, who signs its authorities, and everything that it signs.
//!
//! | module | what it gives |
//! |---|---|
//! | [`keymanager`] | where signing keys live |
//! | [`upstream`] | who signs the authority of a server that is not a root |
//! | [`authority`] | the authorities' life (prepare, activate, taint, revoke) and signing with the active ones |
//!
//! It keeps its journal and the trust domain's bundle in the store, and knows nothing of the API or the index: the caller
//! of a command waits until the index shows the resulting commit.

pub mod authority;
pub mod keymanager;
pub mod limits;
pub mod metrics;
pub mod upstream;
