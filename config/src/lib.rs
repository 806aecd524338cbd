//! Reads configuration files in SPIRE's shape.
//!
//! A file is HCL 1 (or its JSON form) as SPIRE's daemons read it. It becomes a tree in which each key and value knows
//! its line and column; the tree is checked against a registry of keys, in which every key of SPIRE's configuration
//! reference is either supported, ignored (with a warning that says why) or refused as not supported yet; and the
//! daemons read it with typed accessors. Everything that is wrong with a file is reported together.
//!
//! This crate knows the shape of the files, not their meaning: which values a daemon takes and what it does with them
//! is decided in `server/src/config.rs` and `node-agent/src/config.rs`.
//!
//! ```
//! use countersign_config::{Document, SERVER_KEYS};
//!
//! let text = "server {\n  trust_domain = \"example.org\"\n  bind_port = \"8081\"\n}\n";
//! let document = Document::parse("server.conf", text, SERVER_KEYS)?;
//! let (port, warnings) = document.read(|document| {
//!     let server = document.section("server");
//!     server.require(&["trust_domain"]);
//!     Some(server.port("bind_port").unwrap_or(8081))
//! })?;
//! assert_eq!(port, 8081);
//! assert!(warnings.is_empty());
//! # Ok::<(), countersign_config::InvalidConfig>(())
//! ```

mod agent;
mod check;
mod document;
mod duration;
mod entries;
mod error;
mod expand;
mod findings;
mod key;
mod operator_endpoints;
mod parse;
mod scan;
mod section;
mod server;
mod suggest;
mod tree;

pub use agent::AGENT_KEYS;
pub use document::{Document, Expansion, Limits, MAX_TEXT};
pub use duration::{InvalidDuration, parse_duration};
pub use entries::ENTRY_FILE_KEYS;
pub use error::{Finding, InvalidConfig, Position, Warning};
pub use key::{Key, PLUGIN_KEYS, Rule};
pub use operator_endpoints::{Collector, HealthChecks, PrometheusListener};
pub use parse::{MAX_DEPTH, MAX_ITEMS};
pub use section::{Element, Plugin, Section};
pub use server::{DEFAULT_SERVER_SOCKET, SERVER_KEYS};
