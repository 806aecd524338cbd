//! What both daemons offer to operators: health and metrics, each on a listener of its own, and what they send to an
//! OpenTelemetry collector.

use std::fmt::Display;
use std::time::Duration;

use crate::document::Document;

const DEFAULT_HEALTH_PORT: u16 = 80;
const DEFAULT_PROMETHEUS_PORT: u16 = 9988;
const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_secs(60);
/// More often would be a load and tell no more: some of what is counted is looked at every few seconds.
const LEAST_METRICS_INTERVAL: Duration = Duration::from_secs(1);
const MOST_METRICS_INTERVAL: Duration = Duration::from_secs(60 * 60);
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

/// An OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector<E> {
    /// Where it is.
    pub endpoint: E,
    /// Which part of the traces it is sent, from 0 to 1; none if no traces are.
    pub traces: Option<f64>,
    /// How often it is sent metrics; none if they are not.
    pub metrics: Option<Duration>,
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

    /// `telemetry { OTLP { … } }`, its endpoint as `parse` reads it; `None` if it is not there, or wrong.
    pub fn otlp<E, F: Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<E, F>,
    ) -> Option<Collector<E>> {
        let section = self.section("telemetry").section("OTLP");
        if !section.is_present() {
            return None;
        }
        section.require(&["endpoint"]);
        let ratio = section.parsed("sample_ratio", |text| match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err("must be a number from 0 to 1"),
        });
        let bounds = LEAST_METRICS_INTERVAL..=MOST_METRICS_INTERVAL;
        let interval = section.duration("metrics_interval", bounds);
        let (traces, metrics) = (section.bool("traces"), section.bool("metrics"));
        Some(Collector {
            endpoint: section.parsed("endpoint", parse)?,
            traces: (traces != Some(false)).then(|| ratio.unwrap_or(1.0)),
            metrics: (metrics != Some(false)).then(|| interval.unwrap_or(DEFAULT_METRICS_INTERVAL)),
        })
    }
}
