//! What every Countersign process needs at run time: time, supervised tasks, sockets, and connections that can be cut.
//!
//! | module | what it gives |
//! |---|---|
//! | [`clock`], [`backoff`] | the wall clock for validity, and backoff between retries |
//! | [`task`], [`drain`] | supervised tasks, and graceful shutdown with a deadline |
//! | [`connection`], [`io`] | the verified peer of a connection, and IO that ends when the connection is cut or a leaf expires |
//! | [`presented`], [`tls`] | the identity that this process presents, and TLS handshakes on the server side |
//! | [`accept`], [`serve`] | the accept loop, and serving over TCP and Unix sockets |
//! | [`unix`], [`process`], [`dial`] | Unix listening sockets, the processes that call there, and the client side of TLS and Unix sockets |
//! | [`log_limiter`] | a bound on the log lines that callers can cause |
//! | [`grpc`] | a gRPC caller's deadline |
//! | [`error`] | errors of any kind, printed with their causes |
//! | [`file`](mod@file) | atomic replacement of files |
//!
//! Feature `test-util` adds `clock::TestClock`. What only the programs need, such as logs, metrics and the command
//! line, is in countersign-daemon. Nothing here decides who may do what: that is the identity and mesh crates'
//! business.

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
