//! What both daemons offer to operators: health and metrics, each on a listener of its own.

use crate::document::Document;

const DEFAULT_HEALTH_PORT: u16 = 80;
const DEFAULT_PROMETHEUS_PORT: u16 = 9988;
const LOCAL: &str = "localhost";

/// Where health is answered over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    /// An IP address or a name.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The path that tells whether a new start would help.
    pub live_path: String,
    /// The path that tells whether callers are served.
    pub ready_path: String,
}

/// Where Prometheus reads metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusListener {
    /// An IP address or a name.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl Document {
    /// `health_checks`; `None` if there is no listener.
    #[must_use]
    pub fn health_checks(&self) -> Option<HealthChecks> {
        let section = self.section("health_checks");
        let path = |key: &str, default: &str| {
            let path = section.string(key).unwrap_or_else(|| default.to_owned());
            if !path.starts_with('/') || path.contains(['{', '}', '*', '?']) {
                section.wrong(key, "a path begins with / and is taken as it stands");
            }
            path
        };
        let checks = HealthChecks {
            address: section
                .string("bind_address")
                .unwrap_or_else(|| LOCAL.to_owned()),
            port: section.port("bind_port").unwrap_or(DEFAULT_HEALTH_PORT),
            live_path: path("live_path", "/live"),
            ready_path: path("ready_path", "/ready"),
        };
        (section.bool("listener_enabled") == Some(true)).then_some(checks)
    }

    /// `telemetry { Prometheus { … } }`; `None` if it is not there.
    #[must_use]
    pub fn prometheus(&self) -> Option<PrometheusListener> {
        let section = self.section("telemetry").section("Prometheus");
        section.is_present().then(|| PrometheusListener {
            address: section.string("host").unwrap_or_else(|| LOCAL.to_owned()),
            port: section.port("port").unwrap_or(DEFAULT_PROMETHEUS_PORT),
        })
    }
}
