//! Names of the certificate authority's metrics. The server's `metrics` module registers and describes them.

/// Counter, by `kind` and `result` (`ok`, `failed`): signing requests.
pub const SIGNATURES: &str = "countersign_server_signatures_total";
/// Counter, by `kind`: authorities activated.
pub const ACTIVATIONS: &str = "countersign_server_authority_activations_total";
/// Counter: failed rotation steps, each of which is retried.
pub const ROTATION_FAILURES: &str = "countersign_server_authority_rotation_failures_total";
