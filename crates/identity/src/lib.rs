//! SPIFFE identities: make, parse and verify.
//!
//! Everything here is pure: no I/O, no clock (the time is an argument), no protobuf. The server issues with it, node
//! agents and the library verify with it, and each type carries what was proved: a [`SpiffeId`] is canonical, an
//! [`X509Svid`] keeps the rules of its standard, and [`verify::verify_peer`] alone says whether a peer's chain leads to
//! the bundle of its own trust domain.
//!
//! Feature `rustls` adds `tls`: the one verifier and the one certificate resolver that every Countersign process uses.
//! Feature `issue` adds `csr`, `issue` and `issued_ca`: what servers and node agents make certificates and requests with.

pub mod bundle;
pub mod certificate;
#[cfg(feature = "issue")]
pub mod csr;
pub mod entry;
pub mod federation;
#[cfg(feature = "issue")]
pub mod issue;
#[cfg(feature = "issue")]
pub mod issued_ca;
pub mod jwt;
pub mod key;
pub mod node;
#[cfg(feature = "issue")]
mod public_key;
pub mod selector;
mod signed_svid;
pub mod spiffe_id;
#[cfg(feature = "issue")]
mod subject;
pub mod svid;
pub mod time;
#[cfg(feature = "rustls")]
pub mod tls;
pub mod verify;

pub use bundle::{Bundle, BundleSet};
pub use entry::{Entry, EntryId};
pub use key::{KeyId, KeyType, PrivateKey, SigningKey};
pub use node::Node;
pub use selector::{Selector, SelectorSet};
pub use signed_svid::SignedSvid;
pub use spiffe_id::{SpiffeId, TrustDomain};
pub use svid::X509Svid;
pub use time::{Now, UnixTime};
