//! Records this process's metrics through the `metrics` facade, for Prometheus, an OpenTelemetry collector, or both.

use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics::Recorder;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metric, SECONDS};
use crate::otlp::Otlp;

/// Interval of the recorder's upkeep, which bounds the memory of histograms, and of polling gauges.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's metrics, as Prometheus reads them.
#[derive(Clone)]
pub(crate) struct Prometheus(PrometheusHandle);

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The recorder was not built.
    #[error("cannot prepare the metrics")]
    Build(#[from] BuildError),
    /// Another recorder is installed.
    #[error("the metrics of this process are recorded elsewhere already")]
    Installed,
}

/// Installs the recorder of the metrics in `catalogue`, once per process: for the collector if `otlp` exports metrics,
/// and for Prometheus, whose endpoint serves the returned handle, if that is configured.
///
/// # Errors
/// [`MetricsError`].
pub(crate) fn install(
    catalogue: &[Metric],
    for_prometheus: bool,
    otlp: Option<&Otlp>,
) -> Result<Option<Prometheus>, MetricsError> {
    let prometheus = if for_prometheus {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
        Some(builder.build_recorder())
    } else {
        None
    };
    let handle = prometheus
        .as_ref()
        .map(|recorder| Prometheus(recorder.handle()));
    #[cfg(feature = "otlp")]
    if let Some(provider) = otlp.and_then(Otlp::metrics) {
        let both = crate::otlp::Recording::new(provider, catalogue, prometheus);
        set(catalogue, both)?;
        return Ok(handle);
    }
    #[cfg(not(feature = "otlp"))]
    let _ = otlp;
    if let Some(recorder) = prometheus {
        set(catalogue, recorder)?;
    }
    Ok(handle)
}

fn set<R: Recorder + Send + Sync + 'static>(
    catalogue: &[Metric],
    recorder: R,
) -> Result<(), MetricsError> {
    for metric in catalogue {
        metric.describe(&recorder);
    }
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)
}

impl Prometheus {
    /// Answers on `/metrics`.
    pub(crate) fn router(&self) -> Router {
        let handle = self.clone();
        let page = async move || {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, handle.0.render())
        };
        Router::new().route("/metrics", get(page))
    }

    /// Runs the upkeep of the histograms until `stop` is cancelled.
    pub(crate) async fn keep_up(self, stop: CancellationToken) {
        let for_ever = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                self.0.run_upkeep();
            }
        };
        stop.run_until_cancelled(for_ever).await;
    }
}

/// Calls `update`, which sets the polled gauges, at once and every few seconds until `stop` is cancelled.
pub(crate) async fn observe(update: impl Fn(), stop: CancellationToken) {
    let for_ever = async {
        loop {
            update();
            tokio::time::sleep(UPKEEP).await;
        }
    };
    stop.run_until_cancelled(for_ever).await;
}
