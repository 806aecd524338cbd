//! The node agent's keys: SPIRE 1.15's `agent.conf`.

use crate::key::{
    Key, PROFILING, SOURCE_LOCATION, daemon, ignored, node_attestors, not_yet, section, value,
};

/// Every key of a node agent's configuration file.
pub const AGENT_KEYS: &[Key] = &daemon("agent", AGENT, PLUGINS);

const AGENT: &[Key] = &[
    value("availability_target"),
    value("data_dir"),
    value("keep_svids_on_disk"),
    value("log_level"),
    value("log_format"),
    value("log_file"),
    value("server_address"),
    value("server_port"),
    value("socket_path"),
    value("trust_bundle_path"),
    value("trust_bundle_format"),
    value("insecure_bootstrap"),
    value("trust_domain"),
    value("join_token"),
    value("join_token_file"),
    value("workload_x509_svid_key_type"),
    value("admin_socket_path"),
    value("allow_unauthenticated_verifiers"),
    value("allowed_foreign_jwt_claims"),
    value("authorized_delegates"),
    value("disable_sds_api"),
    value("disable_workload_api"),
    section("experimental", EXPERIMENTAL),
    value("jwt_svid_cache_max_size"),
    ignored("log_selectors", "selectors are not written to the log"),
    ignored("log_source_location", SOURCE_LOCATION),
    ignored("profiling_enabled", PROFILING),
    ignored("profiling_freq", PROFILING),
    ignored("profiling_names", PROFILING),
    ignored("profiling_port", PROFILING),
    value("rebootstrap_delay"),
    value("rebootstrap_mode"),
    section("sds", SDS),
    value("trust_bundle_spiffe_workload_api"),
    value("trust_bundle_unix_socket"),
    value("trust_bundle_url"),
    value("x509_svid_cache_max_size"),
];

const SDS: &[Key] = &[
    value("default_svid_name"),
    value("default_bundle_name"),
    value("default_all_bundles_name"),
    value("disable_spiffe_cert_validation"),
];

const EXPERIMENTAL: &[Key] = &[
    value("sync_interval"),
    not_yet("admin_named_pipe_name"),
    not_yet("broker"),
    not_yet("feature_flags"),
    ignored(
        "jwt_svid_cache_hit_timeout",
        "an unreachable server is noticed at once, and the cached JWT-SVID is used",
    ),
    ignored("named_pipe_name", "it concerns Windows only"),
    section("ratelimit", RATES),
    value("require_pq_kem"),
    ignored(
        "use_sync_authorized_entries",
        "the node agent chooses how it asks for its entries",
    ),
];

const RATES: &[Key] = &[
    value("fetch_x509_svid"),
    value("fetch_jwt_svid"),
    value("fetch_x509_bundles"),
    value("fetch_jwt_bundles"),
    value("stream_secrets"),
    value("fetch_secrets"),
];

const PLUGINS: &[Key] = &[
    section("KeyManager", KEY_MANAGERS),
    section("NodeAttestor", NODE_ATTESTORS),
    section("WorkloadAttestor", WORKLOAD_ATTESTORS),
    not_yet("SVIDStore"),
];

const KEY_MANAGERS: &[Key] = &[
    section("disk", &[value("directory")]),
    section("memory", &[]),
];

const NODE_ATTESTORS: &[Key] = &node_attestors(&[
    value("private_key_path"),
    value("certificate_path"),
    value("intermediates_path"),
    not_yet("spiffe_endpoint_socket"),
]);

const WORKLOAD_ATTESTORS: &[Key] = &[
    section("confinement", &[]),
    section(
        "unix",
        &[
            value("discover_workload_path"),
            value("workload_size_limit"),
        ],
    ),
    section(
        "docker",
        &[
            value("docker_socket_path"),
            value("docker_version"),
            value("container_id_cgroup_matchers"),
            value("use_new_container_locator"),
            value("podman_socket_path"),
            value("podman_socket_path_template"),
            not_yet("sigstore"),
            ignored(
                "verbose_container_locator_logs",
                "the log line of an attestation says why a caller is in no container",
            ),
        ],
    ),
    section(
        "podman",
        &[
            value("podman_socket_path"),
            value("podman_socket_path_template"),
        ],
    ),
    not_yet("k8s"),
    not_yet("slurm"),
    section("systemd", &[]),
    not_yet("windows"),
];
