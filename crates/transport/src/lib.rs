//! What every Countersign process needs at run time: time, supervised tasks, sockets, and connections that can be cut.
//!
//! | module | what it gives |
//! |---|---|
//! | [`clock`], [`backoff`] | the time for validity, and waits between tries |
//! | [`task`], [`drain`] | tasks whose end is noticed, and an end that is bounded |
//! | [`connection`], [`io`] | who is at the other end, and IO that ends when that connection is cut or a leaf expires |
//! | [`presented`], [`tls`] | what this process presents to callers, and TLS handshakes on the server side |
//! | [`accept`], [`serve`] | the accept loop, and serving over TCP and Unix sockets |
//! | [`unix`], [`process`], [`dial`] | Unix listening sockets, the processes that call there, and the client side of TLS and Unix sockets |
//! | [`log_limiter`] | a bound on the log lines that callers can cause |
//! | [`grpc`] | the deadline that a gRPC caller asks for |
//! | [`error`] | errors of any kind, printed with their causes |
//! | [`file`](mod@file) | files that are either the old or the new one, never half of it |
//!
//! Feature `test-util` adds `clock::TestClock`. What only the programs need, such as logs, metrics and the command line, is in
//! countersign-daemon. Nothing here decides who may do what: that is the identity and mesh crates' business.

pub mod accept;
pub mod backoff;
pub mod clock;
pub mod connection;
pub mod dial;
pub mod drain;
pub mod error;
pub mod file;
pub mod grpc;
pub mod io;
pub mod limits;
pub mod log_limiter;
pub mod open_files;
pub mod presented;
pub mod process;
pub mod serve;
pub mod task;
pub mod tls;
pub mod unix;

pub use clock::{Clock, SharedClock, SystemClock};
pub use connection::{Address, Connection, Peer, UnixCaller};
pub use presented::{Presented, ServerIdentity};
pub use serve::{ServeOptions, serve_tls, serve_unix};
pub use task::Tasks;
pub use tls::TlsAcceptor;
