//! What the node agent counts: each metric with its help, listed in [`ALL`].

use countersign_daemon::metrics::{CallNames, Metric};

/// Calls of callers.
pub(crate) const CALLS: CallNames = CallNames {
    total: Metric::counter(
        "countersign_agent_calls_total",
        &["method", "code"],
        "Calls on the sockets that ended, by their gRPC code; streams end when the caller goes (Canceled).",
    ),
    seconds: Metric::call_seconds("countersign_agent_calls_seconds"),
    open: Metric::gauge(
        "countersign_agent_calls_open",
        &["method"],
        "Calls that go on, such as the streams of workloads.",
    ),
};
/// Workload attestors that judged a caller.
pub(crate) const ATTESTATION: Metric = Metric::histogram(
    "countersign_agent_workload_attestation_seconds",
    &["attestor"],
    "Time that a workload attestor took for one caller.",
);
/// Workload attestors that could not.
pub(crate) const ATTESTATION_FAILURES: Metric = Metric::counter(
    "countersign_agent_workload_attestation_failures_total",
    &["attestor"],
    "Callers that a workload attestor could not judge.",
);
/// Callers that ask too often.
pub(crate) const RATE_LIMITED: Metric = Metric::counter(
    "countersign_agent_rate_limited_total",
    &["method"],
    "Calls that were refused because of experimental.ratelimit.",
);
/// What the node may have.
pub(crate) const ENTRIES: Metric = Metric::gauge(
    "countersign_agent_entries",
    &[],
    "Entries that the server has authorised for this node.",
);
/// What is held.
pub(crate) const SVIDS: Metric = Metric::gauge(
    "countersign_agent_svids",
    &["kind"],
    "SVIDs that are held for workloads: valid X.509-SVIDs, and JWT-SVIDs.",
);
/// When the first of them runs out.
pub(crate) const FIRST_EXPIRY: Metric = Metric::gauge(
    "countersign_agent_first_svid_expiry_timestamp_seconds",
    &[],
    "When the first of the held X.509-SVIDs expires, in Unix time; 0 if none is held.",
);
/// What the server signed.
pub(crate) const SIGNATURES: Metric = Metric::counter(
    "countersign_agent_signatures_total",
    &["kind", "result"],
    "SVIDs that the server was asked to sign for workloads.",
);
/// Of these, what took the place of another one.
pub(crate) const RENEWALS: Metric = Metric::counter(
    "countersign_agent_renewals_total",
    &["kind"],
    "Of the signed SVIDs, those that took the place of an earlier one.",
);
/// Syncs.
pub(crate) const SYNCS: Metric = Metric::counter(
    "countersign_agent_sync_total",
    &["result"],
    "Syncs of entries and bundles with the server.",
);
/// How long they take.
pub(crate) const SYNC_SECONDS: Metric = Metric::histogram(
    "countersign_agent_sync_seconds",
    &[],
    "Time of a successful sync of entries and bundles.",
);
/// When that was last so.
pub(crate) const LAST_SYNC: Metric = Metric::gauge(
    "countersign_agent_last_sync_timestamp_seconds",
    &[],
    "When entries and bundles were last known to be those of the server, in Unix time; 0 if never.",
);
/// The node's own SVID: by attestation.
pub(crate) const NODE_ATTESTATIONS: Metric = Metric::counter(
    "countersign_agent_node_attestations_total",
    &["attestor", "result"],
    "Attempts of this node to attest itself to the server.",
);
/// The node's own SVID: how long that takes.
pub(crate) const NODE_ATTESTATION_SECONDS: Metric = Metric::histogram(
    "countersign_agent_node_attestation_seconds",
    &["attestor"],
    "Time of a successful attestation of this node.",
);
/// The node's own SVID: once more.
pub(crate) const NODE_RENEWALS: Metric = Metric::counter(
    "countersign_agent_node_renewals_total",
    &["result"],
    "Attempts to renew this node's own SVID, or to attest anew where the node does that.",
);
/// The node's own SVID: until when.
pub(crate) const NODE_EXPIRY: Metric = Metric::gauge(
    "countersign_agent_node_svid_expiry_timestamp_seconds",
    &[],
    "When this node's own SVID expires, in Unix time; 0 while there is none.",
);
/// Whether callers are served.
pub(crate) const READY: Metric = Metric::ready("countersign_agent_ready");
/// Which program it is.
pub(crate) const BUILD: Metric = Metric::build("countersign_agent_build_info");

/// Every metric of the node agent.
pub const ALL: &[Metric] = &[
    BUILD,
    READY,
    CALLS.total,
    CALLS.seconds,
    CALLS.open,
    RATE_LIMITED,
    ATTESTATION,
    ATTESTATION_FAILURES,
    ENTRIES,
    SVIDS,
    FIRST_EXPIRY,
    SIGNATURES,
    RENEWALS,
    SYNCS,
    SYNC_SECONDS,
    LAST_SYNC,
    NODE_ATTESTATIONS,
    NODE_ATTESTATION_SECONDS,
    NODE_RENEWALS,
    NODE_EXPIRY,
];

/// Every method on the node agent's sockets; others are counted as one.
pub(crate) const METHODS: &[&str] = &[
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/FetchJWTSVIDs",
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToJWTBundles",
    "/spire.api.agent.logger.v1.Logger/GetLogger",
    "/spire.api.agent.logger.v1.Logger/SetLogLevel",
    "/spire.api.agent.logger.v1.Logger/ResetLogLevel",
    "/spire.agent.debug.v1.Debug/GetInfo",
];

/// The value of the label `kind` for X.509-SVIDs.
pub(crate) const X509: &str = "x509";
/// The value of the label `kind` for JWT-SVIDs.
pub(crate) const JWT: &str = "jwt";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_proto::DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::METHODS;

    #[test]
    fn every_method_that_the_node_agent_has_is_counted_by_its_name() {
        let served = [
            "SpiffeWorkloadAPI",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            "spire.api.agent.delegatedidentity.v1.DelegatedIdentity",
            "spire.api.agent.logger.v1.Logger",
            "spire.agent.debug.v1.Debug",
        ];
        let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();
        let mut methods = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                let name = match file.package() {
                    "" => service.name().to_owned(),
                    package => format!("{package}.{}", service.name()),
                };
                if served.contains(&name.as_str()) {
                    let paths = service
                        .method
                        .iter()
                        .map(|method| format!("/{name}/{}", method.name()));
                    methods.extend(paths);
                }
            }
        }
        // It describes itself.
        for version in ["v1", "v1alpha"] {
            let service = format!("grpc.reflection.{version}.ServerReflection");
            methods.insert(format!("/{service}/ServerReflectionInfo"));
        }
        let counted: BTreeSet<_> = METHODS.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(counted, methods);
    }
}
