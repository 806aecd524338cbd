//! Settings that every daemon's configuration file has: the log, and the endpoints for operators.

use std::path::PathBuf;

use countersign_config::{Document, Section};

use crate::health::HealthPaths;
use crate::logs::{Format, Level, LogOptions};
use crate::operator_endpoints::OperatorEndpoints;
use crate::otlp::{self, OtlpOptions};

/// `health_checks` and `telemetry`.
#[must_use]
pub fn operators(document: &Document) -> OperatorEndpoints {
    OperatorEndpoints {
        health: document.health_checks().map(|checks| {
            let paths = HealthPaths {
                live: checks.live_path,
                ready: checks.ready_path,
            };
            (checks.address, checks.port, paths)
        }),
        prometheus: document
            .prometheus()
            .map(|listener| (listener.address, listener.port)),
        otlp: document.otlp(otlp::endpoint).map(|collector| OtlpOptions {
            endpoint: collector.endpoint,
            traces: collector.traces,
            metrics: collector.metrics,
        }),
    }
}

/// `log_level`, `log_format` and `log_file` of the daemon's section. The arguments are the values of the flags, which
/// override the file.
#[must_use]
pub fn logs(
    section: &Section<'_>,
    level: Option<Level>,
    format: Option<Format>,
    file: Option<PathBuf>,
) -> LogOptions {
    // Overridden keys are read too, so that every error in the file is reported.
    let (level_key, format_key, file_key) = (
        section.parsed("log_level", str::parse::<Level>),
        section.parsed("log_format", str::parse::<Format>),
        section.path("log_file"),
    );
    LogOptions {
        level: level.or(level_key).unwrap_or_default(),
        format: format.or(format_key).unwrap_or_default(),
        file: file.or(file_key),
    }
}
