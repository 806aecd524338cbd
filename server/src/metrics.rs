//! What the server counts: each metric with its help, listed in [`ALL`].

use countersign_ca::metrics as ca;
use countersign_daemon::metrics::{CallNames, Metric};
use countersign_store::metrics as store;

/// Calls of the API.
pub(crate) const CALLS: CallNames = CallNames {
    total: Metric::counter(
        "countersign_server_calls_total",
        &["method", "code"],
        "Calls of the API that ended, refused ones too, by their gRPC code.",
    ),
    seconds: Metric::call_seconds("countersign_server_calls_seconds"),
    open: Metric::gauge(
        "countersign_server_calls_open",
        &["method"],
        "Calls that go on.",
    ),
};
/// Signatures.
pub(crate) const SIGNATURES: Metric = Metric::counter(
    ca::SIGNATURES,
    &["kind", "result"],
    "What was signed, or asked for and not signed: agent (SVIDs of node agents), x509 and jwt (SVIDs of workloads), \
     downstream (authorities of downstream servers).",
);
/// Attestations of node agents.
pub(crate) const ATTESTATIONS: Metric = Metric::counter(
    "countersign_server_node_attestations_total",
    &["attestor", "result"],
    "Attestations of node agents, by node attestor.",
);
/// Commits.
pub(crate) const COMMITS: Metric = Metric::counter(
    store::COMMITS,
    &["result"],
    "Calls that wrote to the store. What failed may be written all the same.",
);
/// The time that commits take.
pub(crate) const COMMIT_SECONDS: Metric = Metric::histogram(
    store::COMMIT_SECONDS,
    &[],
    "Time until what was written is on the disk.",
);
/// Registration entries.
pub(crate) const ENTRIES: Metric =
    Metric::gauge("countersign_server_entries", &[], "Registration entries.");
/// Node agents.
pub(crate) const NODES: Metric = Metric::gauge(
    "countersign_server_nodes",
    &[],
    "Node agents that are known: attested and not evicted, expired and banned ones too.",
);
/// Bundles.
pub(crate) const BUNDLES: Metric = Metric::gauge(
    "countersign_server_bundles",
    &[],
    "Bundles that are known, the own one among them.",
);
/// The expiry of the active authorities.
pub(crate) const AUTHORITY_EXPIRY: Metric = Metric::gauge(
    "countersign_server_authority_expiry_timestamp_seconds",
    &["kind"],
    "When the authority that signs expires, in Unix time; 0 if there is none.",
);
/// Activations of authorities.
pub(crate) const ACTIVATIONS: Metric = Metric::counter(
    ca::ACTIVATIONS,
    &["kind"],
    "Authorities that began to sign, the one at the start included.",
);
/// Failed steps of the rotation.
pub(crate) const ROTATION_FAILURES: Metric = Metric::counter(
    ca::ROTATION_FAILURES,
    &[],
    "Steps of the rotation of authorities that failed and are tried again.",
);
/// Fetches of foreign bundles.
pub(crate) const FEDERATION: Metric = Metric::counter(
    "countersign_server_federation_refreshes_total",
    &["result"],
    "Looks at the bundles of foreign trust domains.",
);
/// Whether callers are served.
pub(crate) const READY: Metric = Metric::ready("countersign_server_ready");
/// The version of the program.
pub(crate) const BUILD: Metric = Metric::build("countersign_server_build_info");

/// Every metric of the server.
pub const ALL: &[Metric] = &[
    BUILD,
    READY,
    CALLS.total,
    CALLS.seconds,
    CALLS.open,
    SIGNATURES,
    ATTESTATIONS,
    COMMITS,
    COMMIT_SECONDS,
    ENTRIES,
    NODES,
    BUNDLES,
    AUTHORITY_EXPIRY,
    ACTIVATIONS,
    ROTATION_FAILURES,
    FEDERATION,
];
