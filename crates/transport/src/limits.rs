//! Bounds on input from outside.

use std::time::Duration;

/// Timeout of a TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Handshakes at once on one listener; further callers wait in the kernel's queue.
pub const HANDSHAKES: usize = 256;

/// Connections at once on one listener, if the system gives this process files enough for them; further callers wait in
/// the kernel's queue.
pub const CONNECTIONS: usize = 16_384;

/// All headers of one request together, in bytes, for HTTP/1.1 and HTTP/2 alike.
pub const HEADER_BYTES: u32 = 64 * 1024;

/// Send buffer of one response, in bytes: when a caller does not read, the next frame waits.
pub const SEND_BUFFER: usize = 64 * 1024;

/// Streams at once on one HTTP/2 connection.
pub const STREAMS: u32 = 1_000;

/// Streams beyond [`STREAMS`] that one HTTP/2 connection may have refused before it is closed. h2 holds each of them
/// until the caller has read its reset.
pub const REFUSED_STREAMS: usize = 32;

/// Connections of one process at once on a Unix socket. A client needs one, some open a few more.
pub const CONNECTIONS_PER_PROCESS: usize = 64;

/// Log lines about misbehaving callers: the rate per second, and the burst.
pub const LINES: (u32, u32) = (1, 60);

/// Time for an HTTP/1.1 caller to send all headers of a request.
pub const HEADER_READ: Duration = Duration::from_secs(30);

/// A connection without a client certificate is closed after this long without a request: it only occupies a permit.
pub const SILENCE: Duration = Duration::from_secs(30);

/// How long a connection that is closed before its first request may still send one, which may be in flight.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Backlog of a Unix socket: connections that the kernel queues.
pub const BACKLOG: u32 = 1_024;

/// Interval of the checks whether the file of a Unix socket still exists.
pub const SOCKET_LOOK: Duration = Duration::from_secs(1);

/// The longest path of a Unix socket, in bytes, without the NUL that ends it (`sun_path` has 108 on Linux, 104 on BSD).
pub const SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Timeout of connecting to a server: name resolution, TCP and TLS together.
pub const DIAL: Duration = Duration::from_secs(20);

/// How many bytes of `/proc/<pid>/stat` are read; a few hundred are usual.
pub const PROC_STAT_BYTES: u64 = 4 * 1024;
