//! Every bound on what comes from outside, in one place.

use std::time::Duration;

/// A TLS handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Handshakes at once on one listener; further callers wait in the kernel's queue.
pub const HANDSHAKES: usize = 256;

/// Connections at once on one listener, if the system gives this process files enough for them; further callers wait in the kernel's queue.
pub const CONNECTIONS: usize = 16_384;

/// All headers of one request together, in bytes, for HTTP/1.1 and HTTP/2 alike.
pub const HEADER_BYTES: u32 = 64 * 1024;

/// What is buffered of one answer for a caller that does not read it, in bytes; the next piece waits.
pub const SEND_BUFFER: usize = 64 * 1024;

/// Streams at once on one HTTP/2 connection.
pub const STREAMS: u32 = 1_000;

/// Streams of one HTTP/2 connection that are refused because there are too many; beyond that the connection is closed. Each
/// is held until the caller reads that it was.
pub const REFUSED_STREAMS: usize = 32;

/// Connections of one process at once on a Unix socket. A client needs one, some open a few more.
pub const CONNECTIONS_PER_PROCESS: usize = 64;

/// Lines in the log about callers who do what they should not: a second, and at once.
pub const LINES: (u32, u32) = (1, 60);

/// Time for an HTTP/1.1 caller to send all headers of a request.
pub const HEADER_READ: Duration = Duration::from_secs(30);

/// A connection of a caller without certificate on which no request came for this long is closed: it only takes
/// up a permit.
pub const SILENCE: Duration = Duration::from_secs(30);

/// A connection that is closed before its first request may still send one for this long: it may be on its way.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Callers that the kernel keeps waiting for a Unix socket.
pub const BACKLOG: u32 = 1_024;

/// Between two looks at whether the file of a Unix socket is still there.
pub const SOCKET_LOOK: Duration = Duration::from_secs(1);

/// The longest path of a Unix socket, in bytes, without the NUL that ends it (`sun_path` has 108 on Linux, 104 on BSD).
pub const SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A connection to a server (resolving, TCP and TLS together) that takes longer is given up.
pub const DIAL: Duration = Duration::from_secs(20);

/// Bytes of `/proc/<pid>/stat` that are read; it has some hundred.
pub const PROC_STAT_BYTES: u64 = 4 * 1024;
