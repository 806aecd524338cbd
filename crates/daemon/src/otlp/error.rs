//! Why the export can't be set up.

use http::Uri;
use opentelemetry_otlp::ExporterBuildError;

/// Why the export can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// An exporter was not built.
    #[error("cannot set up the export to the OpenTelemetry collector at {endpoint}")]
    Build {
        /// The collector.
        endpoint: Uri,
        /// Why.
        #[source]
        source: ExporterBuildError,
    },
    /// TLS can't be set up.
    #[error("cannot speak TLS to the OpenTelemetry collector at {endpoint}: {reason}")]
    Tls {
        /// The collector.
        endpoint: Uri,
        /// Why.
        reason: String,
    },
}
