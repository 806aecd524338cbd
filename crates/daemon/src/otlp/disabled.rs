//! The same names without the feature `otlp`: nothing can be started, so there is never an [`Otlp`].

use std::convert::Infallible;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::{InvalidEndpoint, OtlpOptions};

/// Why the export can't be set up.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OtlpError(InvalidEndpoint);

/// The running export of this process.
#[derive(Debug)]
pub struct Otlp(Infallible);

impl Otlp {
    /// Refuses.
    ///
    /// # Errors
    /// [`InvalidEndpoint::NotBuilt`], always.
    pub const fn start(
        _: &OtlpOptions,
        _service: &'static str,
        _version: &'static str,
    ) -> Result<Self, OtlpError> {
        Err(OtlpError(InvalidEndpoint::NotBuilt))
    }

    pub(crate) fn layer<S>(&self) -> Option<Box<dyn Layer<S> + Send + Sync>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        match self.0 {}
    }

    pub(crate) const fn sends_metrics(&self) -> bool {
        match self.0 {}
    }

    /// There is nothing to finish.
    pub const fn finish(self) {
        match self.0 {}
    }
}
