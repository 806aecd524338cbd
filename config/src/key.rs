//! The registry of keys: every key that SPIRE documents, and what becomes of it here.

/// A key and its rule. A plugin's kind and a plugin's name are keys too.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key as it is documented; files may write it in another case.
    pub name: &'static str,
    /// What becomes of it.
    pub rule: Rule,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Supported; the daemon reads a value: a string, a number, a bool or a list.
    Value,
    /// Supported; a section with keys of its own.
    Section(&'static [Key]),
    /// Supported; sections with keys of their own, as many as there are.
    Sections(&'static [Key]),
    /// Supported; a list of texts, or of sections with keys of their own.
    Elements(&'static [Key]),
    /// Supported; a section of sections with these keys, each under a name of the user's: `federates_with "td" { }`.
    Named(&'static [Key]),
    /// Supported; the `plugins` section: kinds, in them names, in them the keys of `plugin_data`.
    Plugins(&'static [Key]),
    /// Taken and without effect, which does no harm: a warning with this reason.
    Ignored(&'static str),
    /// Known and refused unless it is empty, since ignoring it would not do what the user asked for.
    NotYet,
    /// Known and refused for good, for this reason.
    Refused(&'static str),
}

pub(crate) const fn value(name: &'static str) -> Key {
    let rule = Rule::Value;
    Key { name, rule }
}

pub(crate) const fn section(name: &'static str, keys: &'static [Key]) -> Key {
    let rule = Rule::Section(keys);
    Key { name, rule }
}

pub(crate) const fn named(name: &'static str, keys: &'static [Key]) -> Key {
    let rule = Rule::Named(keys);
    Key { name, rule }
}

pub(crate) const fn ignored(name: &'static str, reason: &'static str) -> Key {
    let rule = Rule::Ignored(reason);
    Key { name, rule }
}

pub(crate) const fn not_yet(name: &'static str) -> Key {
    let rule = Rule::NotYet;
    Key { name, rule }
}

pub(crate) const fn refused(name: &'static str, reason: &'static str) -> Key {
    let rule = Rule::Refused(reason);
    Key { name, rule }
}

/// The keys of every plugin's block.
pub const PLUGIN_KEYS: &[Key] = &[
    value("enabled"),
    value("plugin_data"),
    not_yet("plugin_data_file"),
    refused(
        "plugin_cmd",
        "plugins are built in, no other program is run: remove it, or use a built-in plugin",
    ),
    refused(
        "plugin_args",
        "plugins are built in, no other program is run: remove it",
    ),
    refused(
        "plugin_checksum",
        "plugins are built in, no other program is run: remove it",
    ),
];

/// The sections of a daemon's file: its own, named after it, and those that both daemons have.
pub(crate) const fn daemon(
    name: &'static str,
    keys: &'static [Key],
    plugins: &'static [Key],
) -> [Key; 4] {
    [
        section(name, keys),
        Key {
            name: "plugins",
            rule: Rule::Plugins(plugins),
        },
        TELEMETRY,
        HEALTH_CHECKS,
    ]
}

/// SPIRE's node attestors, which have a plugin in the server and one in the agent; only x509pop has keys.
pub(crate) const fn node_attestors(x509pop: &'static [Key]) -> [Key; 11] {
    [
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
        section("x509pop", x509pop),
    ]
}

pub(crate) const PROFILING: &str = "there is no built-in profiler";
pub(crate) const SOURCE_LOCATION: &str = "log lines name the module they come from";

/// `telemetry`, the same for both daemons.
const TELEMETRY: Key = section(
    "telemetry",
    &[
        section(
            "Prometheus",
            &[value("host"), value("port"), not_yet("tls")],
        ),
        section(
            "OTLP",
            &[
                value("endpoint"),
                value("traces"),
                value("sample_ratio"),
                value("metrics"),
                value("metrics_interval"),
            ],
        ),
        ignored("AllowedLabels", ALL_METRICS),
        ignored("AllowedPrefixes", ALL_METRICS),
        ignored("BlockedLabels", ALL_METRICS),
        ignored("BlockedPrefixes", ALL_METRICS),
        ignored("DogStatsd", ONLY_PROMETHEUS),
        ignored("EnableHostnameLabel", NO_OWN_LABELS),
        ignored("EnableTrustDomainLabel", NO_OWN_LABELS),
        ignored("FilterDefault", ALL_METRICS),
        ignored("InMem", ONLY_PROMETHEUS),
        ignored("M3", ONLY_PROMETHEUS),
        ignored(
            "MetricPrefix",
            "all names begin with countersign_server or countersign_agent",
        ),
        ignored("Statsd", ONLY_PROMETHEUS),
    ],
);

const ALL_METRICS: &str = "all metrics are exported; leave some out where they are collected";
const ONLY_PROMETHEUS: &str = "metrics are exported for Prometheus and by OTLP only";
const NO_OWN_LABELS: &str = "Prometheus labels what it collects by where it comes from";

/// `health_checks`, the same for both daemons.
const HEALTH_CHECKS: Key = section(
    "health_checks",
    &[
        value("listener_enabled"),
        value("bind_address"),
        value("bind_port"),
        value("live_path"),
        value("ready_path"),
    ],
);
