//! Bounds on input from outside.

use std::time::Duration;

/// The largest message that a client may send, in bytes.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 << 20;
/// The largest message that the server sends, in bytes. A list of everything can be long.
pub(crate) const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// The most items in one batch request.
pub(crate) const MAX_BATCH_ITEMS: usize = 5_000;
/// The most CSRs in one batch: the rate limit's burst, so that no larger batch could ever be served.
pub(crate) const MAX_BATCH_CSRS: usize = 500;
/// The most entries or revisions in one message of a sync stream.
pub(crate) const SYNC_PAGE: usize = 500;
/// The most sync streams that one agent may have open; agents need one, and briefly another after a broken connection.
pub(crate) const MAX_SYNCS_PER_AGENT: usize = 8;
/// The most IDs that an agent may ask for in one message of a sync stream.
pub(crate) const MAX_SYNC_IDS: usize = 100_000;
/// The largest CSR, in bytes: an RSA key of 8,192 bits with room for names.
pub(crate) const MAX_CSR_BYTES: usize = 16 << 10;
/// The longest name of an attestor, in bytes.
pub(crate) const MAX_ATTESTATION_TYPE_BYTES: usize = 64;
/// The largest attestation payload or challenge response, in bytes.
pub(crate) const MAX_ATTESTATION_PAYLOAD_BYTES: usize = 256 << 10;
/// The most attestations at once, and of one address or one half of an IPv6 network; further ones wait for their turn.
pub(crate) const MAX_ATTESTATIONS: usize = 1_024;
/// See [`MAX_ATTESTATIONS`].
pub(crate) const MAX_ATTESTATIONS_PER_NETWORK: usize = 64;
/// Timeout of a whole attestation: the stream of a silent agent is ended.
pub(crate) const ATTESTATION_TIME: Duration = Duration::from_secs(60);
/// How long a sync stream waits for the agent's next message.
pub(crate) const SYNC_IDLE: Duration = Duration::from_secs(60);
/// The longest join token, in bytes.
pub(crate) const MAX_JOIN_TOKEN_BYTES: usize = 255;
/// The longest version that an agent may report, in bytes.
pub(crate) const MAX_AGENT_VERSION_BYTES: usize = 255;
/// The most selectors or trust domains in one filter.
pub(crate) const MAX_FILTER_ITEMS: usize = 1_024;
/// The most authorities of each kind in one request.
pub(crate) const MAX_BUNDLE_AUTHORITIES: usize = 1_024;
/// How many foreign bundles are fetched at once.
pub(crate) const MAX_BUNDLE_FETCHES: usize = 16;
/// How many callers may wait for one foreign bundle to be refreshed, and how many such requests may be on their way.
pub(crate) const MAX_BUNDLE_REFRESHES: usize = 64;
/// How long fetching a foreign bundle may take, redirects included.
pub(crate) const BUNDLE_FETCH: Duration = Duration::from_secs(30);
/// The most redirects of one fetch of a bundle.
pub(crate) const MAX_REDIRECTS: usize = 10;
/// The longest interval between two fetches of a foreign bundle.
pub(crate) const MAX_BUNDLE_POLL: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections of foreign trust domains at once; further callers wait in the kernel's queue.
pub(crate) const BUNDLE_ENDPOINT_CONNECTIONS: usize = 512;
/// The largest certificate or key file, in bytes.
pub(crate) const MAX_CERTIFICATE_FILE_BYTES: u64 = 1 << 20;
/// The most JWT keys in the bundle with which downstream servers may still publish another. The rest of the room is for
/// this server's own.
pub(crate) const MAX_PUBLISHED_JWT_KEYS: usize = 512;
/// The most client addresses that each rate limit remembers; beyond it those that are idle longest are forgotten.
pub(crate) const MAX_LIMITED_CLIENTS: usize = 65_536;

/// The longest wait that a rate limit imposes on a call (decision 0009). Many agents behind one address share its
/// bucket; beyond this wait they get ResourceExhausted.
pub(crate) const MAX_RATE_LIMIT_WAIT: Duration = Duration::from_secs(600);

/// How many records the index examines before it releases its lock for a moment.
pub(crate) const INDEX_PORTION: usize = 4_096;
/// How long a call that wrote waits until the index shows it. It takes milliseconds unless the store fails.
pub(crate) const INDEX_WAIT: Duration = Duration::from_secs(10);

/// The most IDs in one audit line.
pub(crate) const MAX_AUDIT_IDS: usize = 16;
/// The longest text from a request or status in an audit line, in bytes.
pub(crate) const MAX_AUDIT_TEXT: usize = 256;
/// Audit lines per second, and at once, for callers that were refused or not identified. At about 500 bytes each that
/// is less than half a gigabyte a day.
pub(crate) const AUDIT_UNIDENTIFIED: (u32, u32) = (10, 1_000);
/// The same for node agents and downstream servers together.
pub(crate) const AUDIT_AGENTS: (u32, u32) = (200, 20_000);
/// The same for administrators, local or not.
pub(crate) const AUDIT_ADMINS: (u32, u32) = (200, 20_000);
