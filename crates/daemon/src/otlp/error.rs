//! Why an exporter can not be started.

use http::Uri;
use opentelemetry_otlp::ExporterBuildError;

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// An exporter was not built.
    #[error("cannot prepare what the OpenTelemetry collector at {endpoint} is told")]
    Build {
        /// The collector.
        endpoint: Uri,
        /// Why.
        #[source]
        source: ExporterBuildError,
    },
    /// TLS can't be spoken.
    #[error("cannot speak TLS to the OpenTelemetry collector at {endpoint}: {reason}")]
    Tls {
        /// The collector.
        endpoint: Uri,
        /// Why.
        reason: String,
    },
}
