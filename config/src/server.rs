//! The server's keys: SPIRE 1.15's `server.conf`, and the few that are ours.

use crate::key::{
    Key, PROFILING, SOURCE_LOCATION, daemon, ignored, named, node_attestors, not_yet, section,
    value,
};

const CHANGES: &str =
    "the index of entries follows the store's changes at once, nothing is reloaded by a timer";
/// Default of the server's `socket_path`, and of the administration verbs' `-socketPath`.
pub const DEFAULT_SERVER_SOCKET: &str = "/tmp/spire-server/private/api.sock";

/// Every key of a server's configuration file.
pub const SERVER_KEYS: &[Key] = &daemon("server", SERVER, PLUGINS);

const SERVER: &[Key] = &[
    value("bind_address"),
    value("bind_port"),
    value("trust_domain"),
    value("data_dir"),
    value("socket_path"),
    value("log_level"),
    value("log_format"),
    value("log_file"),
    value("ca_ttl"),
    value("ca_key_type"),
    section("ca_subject", CA_SUBJECT),
    value("default_x509_svid_ttl"),
    value("agent_ttl"),
    value("default_jwt_svid_ttl"),
    value("disable_jwt_svids"),
    value("jwt_issuer"),
    value("jwt_key_type"),
    section("ratelimit", RATELIMIT),
    value("admin_ids"),
    value("audit_log_enabled"),
    section("experimental", EXPERIMENTAL),
    section("federation", FEDERATION),
    ignored("log_source_location", SOURCE_LOCATION),
    ignored("max_attested_node_info_staleness", CHANGES),
    ignored("profiling_enabled", PROFILING),
    ignored("profiling_freq", PROFILING),
    ignored("profiling_names", PROFILING),
    ignored("profiling_port", PROFILING),
    not_yet("proxy_protocol_trusted_cidrs"),
    value("prune_attested_nodes_batch_size"),
    value("prune_attested_nodes_expired_for"),
    value("prune_tofu_nodes"),
];

const CA_SUBJECT: &[Key] = &[
    value("country"),
    value("organization"),
    value("common_name"),
];

const RATELIMIT: &[Key] = &[value("attestation"), value("signing")];

const FEDERATION: &[Key] = &[
    section("bundle_endpoint", BUNDLE_ENDPOINT),
    named("federates_with", FEDERATES_WITH),
];

const BUNDLE_ENDPOINT: &[Key] = &[
    value("address"),
    value("port"),
    value("refresh_hint"),
    section("profile", ENDPOINT_PROFILES),
    not_yet("acme"),
];

const ENDPOINT_PROFILES: &[Key] = &[
    section("https_spiffe", &[]),
    section("https_web", HTTPS_WEB),
];

const HTTPS_WEB: &[Key] = &[
    section("serving_cert_file", SERVING_CERT_FILE),
    not_yet("acme"),
];

const SERVING_CERT_FILE: &[Key] = &[
    value("cert_file_path"),
    value("key_file_path"),
    value("file_sync_interval"),
];

const FEDERATES_WITH: &[Key] = &[
    value("bundle_endpoint_url"),
    section("bundle_endpoint_profile", FOREIGN_PROFILES),
];

const FOREIGN_PROFILES: &[Key] = &[
    section("https_spiffe", &[value("endpoint_spiffe_id")]),
    section("https_web", &[]),
];

const EXPERIMENTAL: &[Key] = &[
    value("agent_spiffe_id_as_selector"),
    not_yet("auth_opa_policy_engine"),
    ignored("cache_reload_interval", CHANGES),
    ignored("event_timeout", CHANGES),
    ignored("events_based_cache", CHANGES),
    not_yet("feature_flags"),
    ignored("full_cache_reload_interval", CHANGES),
    ignored("named_pipe_name", "it concerns Windows only"),
    ignored("prune_events_older_than", CHANGES),
    value("require_pq_kem"),
    ignored("sql_transaction_timeout", "no SQL database is in use"),
    not_yet("wit_issuer"),
    not_yet("wit_key_type"),
];

const PLUGINS: &[Key] = &[
    section("DataStore", DATA_STORES),
    section("KeyManager", KEY_MANAGERS),
    section("NodeAttestor", NODE_ATTESTORS),
    not_yet("BundlePublisher"),
    not_yet("CredentialComposer"),
    not_yet("Notifier"),
    section("UpstreamAuthority", UPSTREAM_AUTHORITIES),
];

const DATA_STORES: &[Key] = &[
    section("sql", SQL),
    section("sled", &[value("path")]),
    section("memory", &[]),
];

/// Which of the other keys apply depends on `database_type`; the server's own configuration checks that.
const SQL: &[Key] = &[
    value("database_type"),
    value("connection_string"),
    not_yet("ro_connection_string"),
    not_yet("root_ca_path"),
    not_yet("client_cert_path"),
    not_yet("client_key_path"),
    ignored("max_open_conns", "no SQL database is in use"),
    ignored("max_idle_conns", "no SQL database is in use"),
    ignored("conn_max_lifetime", "no SQL database is in use"),
    ignored("disable_migration", "no SQL database is in use"),
    ignored("log_sql", "no SQL database is in use"),
];

const KEY_MANAGERS: &[Key] = &[
    section("disk", &[value("keys_path"), value("directory")]),
    section("memory", &[]),
    not_yet("aws_kms"),
    not_yet("azure_key_vault"),
    not_yet("gcp_kms"),
    not_yet("hashicorp_vault"),
];

const NODE_ATTESTORS: &[Key] = &node_attestors(X509POP);

/// SPIRE documents the prefix as `svid_prefix`, its code reads `spiffe_prefix`: both are accepted (decision 0015).
const X509POP: &[Key] = &[
    value("mode"),
    value("svid_prefix"),
    value("spiffe_prefix"),
    value("ca_bundle_path"),
    value("ca_bundle_paths"),
    value("agent_path_template"),
    value("max_intermediates"),
    value("max_rsa_key_size"),
    value("verify_client_ip"),
];

const UPSTREAM_AUTHORITIES: &[Key] = &[
    section(
        "disk",
        &[
            value("cert_file_path"),
            value("key_file_path"),
            value("bundle_file_path"),
        ],
    ),
    section(
        "spire",
        &[
            value("server_address"),
            value("server_port"),
            value("workload_api_socket"),
            section(
                "experimental",
                &[
                    ignored("workload_api_named_pipe_name", "it concerns Windows only"),
                    value("require_pq_kem"),
                ],
            ),
        ],
    ),
    not_yet("awssecret"),
    not_yet("aws_pca"),
    not_yet("cert-manager"),
    not_yet("ejbca"),
    not_yet("gcp_cas"),
    not_yet("vault"),
];
