//! The node agent's keys: SPIRE 1.15's `agent.conf`.

use crate::key::{HEALTH_CHECKS, Key, Rule, TELEMETRY, ignored, not_yet, section, value};

const PROFILING: &str = "there is no built-in profiler";

/// Every key of a node agent's configuration file.
pub const AGENT_KEYS: &[Key] = &[
    section("agent", AGENT),
    Key {
        name: "plugins",
        rule: Rule::Plugins(PLUGINS),
    },
    TELEMETRY,
    HEALTH_CHECKS,
];

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
    ignored("log_selectors", "selectors do not stand in the log"),
    ignored(
        "log_source_location",
        "log lines name the module they come from",
    ),
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
        "a server that can't be reached is noticed at once, and what is kept is used",
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

const NODE_ATTESTORS: &[Key] = &[
    section("join_token", &[]),
    not_yet("aws_iid"),
    not_yet("azure_imds"),
    not_yet("azure_msi"),
    not_yet("gcp_iit"),
    not_yet("http_challenge"),
    not_yet("k8s_psat"),
    not_yet("k8s_sat"),
    not_yet("sshpop"),
    not_yet("tpm_devid"),
    section(
        "x509pop",
        &[
            value("private_key_path"),
            value("certificate_path"),
            value("intermediates_path"),
            not_yet("spiffe_endpoint_socket"),
        ],
    ),
];

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
                "why a caller is in no container stands in the log with its attestation",
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
