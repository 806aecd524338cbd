//! The bounds on everything that comes from outside: the server, workloads, the disk.

use std::time::Duration;

/// Streams at once on one connection: more than a process may hold, so that it learns which bound it has met.
pub const STREAMS_PER_CONNECTION: u32 = 72;
/// All headers of one request together, in bytes: those of the Workload API are a few short ones.
pub const HEADER_BYTES: u32 = 8 * 1024;
/// Streams that one process may hold open on the Workload API.
pub const STREAMS_PER_PROCESS: usize = 64;
/// Streams that all callers together may hold open on the Workload API.
pub const STREAMS_IN_ALL: usize = 16_384;
/// Of these, streams that the processes of one user may hold.
pub const STREAMS_PER_USER: usize = STREAMS_IN_ALL / 2;
/// Attestations of one user's processes at once; further ones wait. Tokio has 512 blocking threads.
pub const ATTESTATIONS_PER_USER: usize = 16;
/// Sets of selectors whose calls are counted at once, where the configuration limits their rate.
pub const RATE_BUCKETS: usize = 4096;
/// How long the attestation of one caller may take in all, with waiting for its turn.
pub const WORKLOAD_ATTESTATION: Duration = Duration::from_secs(30);
/// How long one workload attestor may take, unless it says another time.
pub const WORKLOAD_ATTESTOR: Duration = Duration::from_secs(5);
/// How long the `unix` attestor may take: it may have to read a large executable.
pub const UNIX_ATTESTOR: Duration = Duration::from_secs(20);
/// Bytes of a file below `/proc` that are read.
pub const PROC_FILE_BYTES: u64 = 256 * 1024;
/// What most of these have at most, in bytes.
pub const PROC_FILE_USUAL: usize = 4 * 1024;
/// Bytes of a file that describes a cgroup that are read.
pub const CGROUP_FILE_BYTES: u64 = 64 * 1024;
/// Threads of one process, or of all processes of one cgroup, that are looked at.
pub const THREADS: usize = 512;
/// How often threads are listed, if they come and go meanwhile.
pub const THREAD_LISTINGS: usize = 5;
/// Cgroups below a caller's that are looked into.
pub const CGROUPS_BELOW: usize = 64;
/// The longest ID of a container, in bytes.
pub const CONTAINER_ID_BYTES: usize = 128;
/// The largest answer of a container engine that is read, in bytes.
pub const ENGINE_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Labels and variables of one container together.
pub const CONTAINER_SELECTORS: usize = 2_048;
/// The longest name and the longest path of a systemd unit, in bytes.
pub const UNIT_BYTES: usize = 4096;
/// Digests of executables that are remembered.
pub const DIGEST_CACHE_ENTRIES: usize = 1024;
/// How often an executable that changes meanwhile is read for one digest.
pub const DIGEST_READINGS: usize = 3;
/// Names of users and groups that are remembered.
pub const NAMES: usize = 4096;
/// How long such a name is believed: so late it may be noticed that a number has another name.
pub const NAME_REMEMBERED: Duration = Duration::from_secs(5);

/// The largest request of the Workload API that is read, in bytes: a token, or audiences.
pub const WORKLOAD_REQUEST_BYTES: usize = 64 * 1024;
/// Audiences in one request for JWT-SVIDs.
pub const AUDIENCES: usize = 64;
/// All audiences of one request for JWT-SVIDs together, in bytes: a token holds them.
pub const AUDIENCE_BYTES: usize = 8 * 1024;
/// JWT-SVIDs fetched at once for one user's processes; further ones wait.
pub const JWT_FETCHES_PER_USER: usize = 8;
/// JWT-SVIDs that are kept, unless the configuration says another number.
pub const JWT_SVIDS: usize = 1000;
/// The largest request of Envoy's secret discovery that is read, in bytes: Envoy tells of all its extensions, some 100 KiB.
pub const SDS_REQUEST_BYTES: usize = 256 * 1024;
/// Single requests for secrets of one process that are read at once; further ones wait. In memory such a message can be
/// many times as large as on the wire.
pub const SDS_FETCHES_PER_PROCESS: usize = 2;
/// Secrets that one stream of secret discovery may ask for.
pub const SDS_NAMES: usize = 1_000;
/// The longest name of a secret or of a type, in bytes: a SPIFFE ID.
pub const SDS_NAME_BYTES: usize = 2_048;
/// The largest request on the admin socket that is read, in bytes.
pub const ADMIN_REQUEST_BYTES: usize = 256 * 1024;
/// Selectors that a delegate may give of one workload.
pub const DELEGATED_SELECTORS: usize = 1_000;

/// The largest message taken from the server, in bytes. Pages of 500 entries stay below SPIRE's 4 MiB; ours may be larger.
pub const SERVER_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// How long one call to the server may take; the same for all of a sync (wire contract, B.3).
pub const SERVER_CALL: Duration = Duration::from_secs(30);
/// How long connecting to the server may take, TLS included.
pub const SERVER_CONNECT: Duration = Duration::from_secs(10);
/// How long one attestation may take: the server lets callers from one address wait for one another (wire contract, A.6).
pub const ATTESTATION: Duration = Duration::from_secs(120);
/// Challenges in one attestation.
pub const CHALLENGES: usize = 8;
/// The largest file that a node attestor reads, in bytes.
pub const ATTESTOR_FILE_BYTES: u64 = 1024 * 1024;
/// Entries that the server may have authorised for this node.
pub const ENTRIES: usize = 200_000;
/// Federated bundles fetched side by side.
pub const BUNDLES_AT_ONCE: usize = 10;
/// CSRs in one signing request, at most (wire contract, D.4).
pub const CSRS_PER_BATCH: usize = 500;
/// CSRs in one signing request for SVIDs whose authority is being withdrawn (wire contract, D.4).
pub const WITHDRAWN_PER_BATCH: usize = 100;

/// The largest state file that is read, in bytes.
pub const STATE_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The largest file with workloads' SVIDs that is read, in bytes.
pub const SVIDS_FILE_BYTES: u64 = 128 * 1024 * 1024;
/// Workloads' SVIDs that are kept on disk.
pub const SVIDS_ON_DISK: usize = 10_000;
/// The largest trust bundle file that is read, in bytes.
pub const TRUST_BUNDLE_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The largest Workload API answer that the command line takes, in bytes.
pub const WORKLOAD_MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// Lines in the log about callers who do what they should not: a second, and at once.
pub const LINES_ABOUT_CALLERS: (u32, u32) = (10, 600);
/// What stands in the log of a text that a caller sent, in bytes.
pub const LOGGED_TEXT: usize = 512;
