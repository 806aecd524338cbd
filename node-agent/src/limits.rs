//! Bounds on input from outside: the server, workloads, the disk.

use std::time::Duration;

/// Streams at once on one connection: more than a process may hold, so that it learns which bound it has met.
pub(crate) const STREAMS_PER_CONNECTION: u32 = 72;
/// All headers of one request together, in bytes: those of the Workload API are a few short ones.
pub(crate) const HEADER_BYTES: u32 = 8 * 1024;
/// Streams that one process may hold open on the Workload API.
pub(crate) const STREAMS_PER_PROCESS: usize = 64;
/// Streams that all callers together may hold open on the Workload API.
pub(crate) const STREAMS_IN_ALL: usize = 16_384;
/// Of these, streams that the processes of one user may hold.
pub(crate) const STREAMS_PER_USER: usize = STREAMS_IN_ALL / 2;
/// Attestations of one user's processes at once; further ones wait. Tokio has 512 blocking threads.
pub(crate) const ATTESTATIONS_PER_USER: usize = 16;
/// Sets of selectors with a rate limit bucket at once.
pub(crate) const RATE_BUCKETS: usize = 4096;
/// Timeout of the attestation of one caller, including the wait for a permit.
pub(crate) const WORKLOAD_ATTESTATION: Duration = Duration::from_secs(30);
/// Default timeout of one workload attestor.
pub(crate) const WORKLOAD_ATTESTOR: Duration = Duration::from_secs(5);
/// Timeout of the `unix` attestor, which may have to read a large executable.
pub(crate) const UNIX_ATTESTOR: Duration = Duration::from_secs(20);
/// The most bytes read of one file in `/proc`.
pub(crate) const PROC_FILE_BYTES: u64 = 256 * 1024;
/// Usual upper bound of their size, in bytes.
pub(crate) const PROC_FILE_USUAL: usize = 4 * 1024;
/// The most bytes read of one file of a cgroup.
pub(crate) const CGROUP_FILE_BYTES: u64 = 64 * 1024;
/// The most threads of one process, or of all processes in one cgroup, that `confinement` reads.
pub(crate) const THREADS: usize = 512;
/// How often `confinement` lists threads before it gives up on a stable listing.
pub(crate) const THREAD_LISTINGS: usize = 5;
/// The most descendants of a caller's cgroup that are read.
pub(crate) const CGROUPS_BELOW: usize = 64;
/// The longest ID of a container, in bytes.
pub(crate) const CONTAINER_ID_BYTES: usize = 128;
/// The largest answer of a container engine that is read, in bytes.
pub(crate) const ENGINE_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Labels and variables of one container together.
pub(crate) const CONTAINER_SELECTORS: usize = 2_048;
/// The longest name and the longest path of a systemd unit, in bytes.
#[cfg(feature = "systemd-attestor")]
pub(crate) const UNIT_BYTES: usize = 4096;
/// Capacity of the cache of executables' digests.
pub(crate) const DIGEST_CACHE_ENTRIES: usize = 1024;
/// How often an executable that changes while it is hashed is read again.
pub(crate) const DIGEST_READINGS: usize = 3;
/// Capacity of the cache of user and group names.
pub(crate) const NAMES: usize = 4096;
/// How long such a name is cached: the longest delay until a change of the name of a UID or GID is noticed.
pub(crate) const NAME_REMEMBERED: Duration = Duration::from_secs(5);

/// The largest request of the Workload API that is read, in bytes: a token, or audiences.
pub(crate) const WORKLOAD_REQUEST_BYTES: usize = 64 * 1024;
/// Audiences in one request for JWT-SVIDs.
pub(crate) const AUDIENCES: usize = 64;
/// All audiences of one request for JWT-SVIDs together, in bytes: a token holds them.
pub(crate) const AUDIENCE_BYTES: usize = 8 * 1024;
/// JWT-SVIDs fetched at once for one user's processes; further ones wait.
pub(crate) const JWT_FETCHES_PER_USER: usize = 8;
/// Default capacity of the cache of JWT-SVIDs.
pub(crate) const JWT_SVIDS: usize = 1000;
/// The largest request of Envoy's secret discovery, in bytes: Envoy lists all its extensions, some 100 KiB.
pub(crate) const SDS_REQUEST_BYTES: usize = 256 * 1024;
/// Single requests for secrets of one process that are read at once; further ones wait. In memory such a message can be
/// many times as large as on the wire.
pub(crate) const SDS_FETCHES_PER_PROCESS: usize = 2;
/// Secrets that one stream of secret discovery may ask for.
pub(crate) const SDS_NAMES: usize = 1_000;
/// The longest name of a secret or of a type, in bytes: a SPIFFE ID.
pub(crate) const SDS_NAME_BYTES: usize = 2_048;
/// The largest request on the admin socket that is read, in bytes.
pub(crate) const ADMIN_REQUEST_BYTES: usize = 256 * 1024;
/// Selectors that a delegate may give of one workload.
pub(crate) const DELEGATED_SELECTORS: usize = 1_000;

/// The largest message accepted from the server, in bytes. SPIRE's pages of 500 entries are smaller than 4 MiB; ours
/// may be larger.
pub(crate) const SERVER_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// How long one call to the server may take; the same for all of a sync (wire contract, B.3).
pub(crate) const SERVER_CALL: Duration = Duration::from_secs(30);
/// How long connecting to the server may take, TLS included.
pub(crate) const SERVER_CONNECT: Duration = Duration::from_secs(10);
/// Timeout of one attestation: the server's rate limit queues callers with the same address (wire contract, A.6).
pub(crate) const ATTESTATION: Duration = Duration::from_secs(120);
/// Challenges in one attestation.
pub(crate) const CHALLENGES: usize = 8;
/// The largest file that a node attestor reads, in bytes.
pub(crate) const ATTESTOR_FILE_BYTES: u64 = 1024 * 1024;
/// Entries that the server may have authorised for this node.
pub(crate) const ENTRIES: usize = 200_000;
/// Federated bundles fetched side by side.
pub(crate) const BUNDLES_AT_ONCE: usize = 10;
/// CSRs in one signing request, at most (wire contract, D.4).
pub(crate) const CSRS_PER_BATCH: usize = 500;
/// CSRs in one signing request for SVIDs of a tainted authority (wire contract, D.4).
pub(crate) const TAINTED_PER_BATCH: usize = 100;

/// The largest state file that is read, in bytes.
pub(crate) const STATE_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The largest file with workloads' SVIDs that is read, in bytes.
pub(crate) const SVIDS_FILE_BYTES: u64 = 128 * 1024 * 1024;
/// The most workloads' SVIDs stored on disk.
pub(crate) const SVIDS_ON_DISK: usize = 10_000;
/// The largest trust bundle file that is read, in bytes.
pub(crate) const TRUST_BUNDLE_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The largest Workload API answer that the command line takes, in bytes.
pub(crate) const WORKLOAD_MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// Log lines about misbehaving callers: the rate per second, and the burst.
pub(crate) const LINES_ABOUT_CALLERS: (u32, u32) = (10, 600);
/// The most bytes of a caller's text that are logged.
pub(crate) const LOGGED_TEXT: usize = 512;
