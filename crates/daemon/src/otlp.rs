//! Export of traces and metrics to an OpenTelemetry collector, by OTLP over gRPC, if one is configured.
//!
//! No caller waits for the collector: spans go to a bounded queue and metrics are read periodically, each by a thread
//! of its own (decision 0024). Data is lost while the collector is unreachable, which is logged once.
//!
//! Only spans of [`crate::trace`] and the metrics of a daemon's list are exported: no spans of libraries, no log lines.
//!
//! Without the feature `otlp` a configuration that names a collector is refused.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(not(feature = "otlp"))]
mod disabled;
#[cfg(feature = "otlp")]
mod error;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(feature = "otlp")]
mod record;

use std::time::Duration;

use http::Uri;

#[cfg(not(feature = "otlp"))]
pub use disabled::{Otlp, OtlpError};
#[cfg(feature = "otlp")]
pub use error::OtlpError;
#[cfg(feature = "otlp")]
pub use exporter::Otlp;
#[cfg(feature = "otlp")]
pub(crate) use record::Recording;

/// Why a collector's address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// It is malformed.
    #[error("http://host:port or https://host:port should stand here")]
    NotAnAddress,
    /// This build lacks the feature `otlp`.
    #[error(
        "this program was built without OpenTelemetry: remove the section, or use a build with the feature otlp"
    )]
    NotBuilt,
}

/// The address of a collector: `http://host:port` or `https://host:port`; the default port is 4317. A path is refused:
/// OTLP over HTTP has one, OTLP over gRPC does not.
///
/// # Errors
/// [`InvalidEndpoint`].
pub fn endpoint(text: &str) -> Result<Uri, InvalidEndpoint> {
    if cfg!(not(feature = "otlp")) {
        return Err(InvalidEndpoint::NotBuilt);
    }
    let uri: Uri = text.parse().map_err(|_| InvalidEndpoint::NotAnAddress)?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host().is_some_and(|host| !host.is_empty());
    let bare = uri.path_and_query().is_none_or(|path| path == "/");
    // User name and password in the URL would appear in the log.
    let open = uri
        .authority()
        .is_none_or(|authority| !authority.as_str().contains('@'));
    if scheme && host && bare && open {
        return Ok(uri);
    }
    Err(InvalidEndpoint::NotAnAddress)
}

/// The settings of the export.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpOptions {
    /// The collector: `http://host:port`, or `https://host:port`.
    pub endpoint: Uri,
    /// Sampling ratio of the traces that begin here, from 0 to 1; `None` exports no traces.
    pub traces: Option<f64>,
    /// Interval of the export of metrics; `None` exports none.
    pub metrics: Option<Duration>,
}
