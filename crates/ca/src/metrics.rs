//! Names of what the certificate authority counts. The server's list of metrics says what they mean.

/// Counter, by `kind` and `result` (`ok`, `failed`): what was signed, or asked for and not signed.
pub const SIGNATURES: &str = "countersign_server_signatures_total";
/// Counter, by `kind`: authorities that began to sign.
pub const ACTIVATIONS: &str = "countersign_server_authority_activations_total";
/// Counter: steps of the rotation that failed and are tried again.
pub const ROTATION_FAILURES: &str = "countersign_server_authority_rotation_failures_total";
