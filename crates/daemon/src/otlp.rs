//! Traces and metrics for an OpenTelemetry collector, by OTLP over gRPC, where the configuration names one.
//!
//! Nothing that serves callers waits for the collector: spans go to a bounded queue and metrics are read periodically,
//! each by a thread of its own (decision 0024). While the collector is away its data is lost, which is logged once.
//!
//! What is sent is chosen here and not by libraries: spans of [`crate::trace`] alone, never log lines, and the metrics of
//! a daemon's list.
//!
//! Without the feature `otlp` nothing can be sent, and a configuration that names a collector is refused.

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

/// Why an address of a collector is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// It is none.
    #[error("http://host:port or https://host:port should stand here")]
    NotAnAddress,
    /// Nothing can be sent to it.
    #[error(
        "this program was built without OpenTelemetry: remove the section, or use a build with the feature otlp"
    )]
    NotBuilt,
}

/// The address of a collector: `http://host:port`, or `https://host:port`; without a port it is 4317. What OTLP over HTTP
/// has besides, a path, is none of gRPC.
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
    // A name or a password would stand in the log.
    let open = uri
        .authority()
        .is_none_or(|authority| !authority.as_str().contains('@'));
    if scheme && host && bare && open {
        return Ok(uri);
    }
    Err(InvalidEndpoint::NotAnAddress)
}

/// What is sent where.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpOptions {
    /// The collector: `http://host:port`, or `https://host:port`.
    pub endpoint: Uri,
    /// Which part of the traces that begin here is sent, from 0 to 1; none if no traces are.
    pub traces: Option<f64>,
    /// How often metrics are sent; none if they are not.
    pub metrics: Option<Duration>,
}
